import "./connection.js";
