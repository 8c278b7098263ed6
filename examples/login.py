"""Who may follow what: the view decides, again at every connect."""

import os

from flask import Flask, redirect, request, session, url_for

from afterload.flask import Live

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY", "for development only")
live = Live(app)


@app.get("/")
def index():
    if "user" not in session:
        return redirect(url_for("login"))
    user = session["user"]
    return live.page("login.html", "everybody", f"user {user}", owner=user, user=user)


@app.post("/say")
def say():
    if "user" not in session:
        return redirect(url_for("login"))
    line = f"{session['user']}: {request.form['text']}"
    if to := request.form["to"]:
        live.publish(f"user {to}", {"#to-you": line})
    else:
        live.publish("everybody", {"#to-all": line})
    return redirect(url_for("index"))


@app.route("/login", methods=["GET", "POST"])
def login():
    if request.method == "POST":
        session["user"] = request.form["user"]  # a real one asks for a password
        return redirect(url_for("index"))
    return '<form method="post"><input name="user" aria-label="name" required> <button>Log in</button></form>'


@app.post("/logout")
def logout():
    user = session.pop("user", None)
    if user is not None:
        live.revoke(owner=user)  # their open pages ask the view again, and are sent to the login
    return redirect(url_for("login"))
