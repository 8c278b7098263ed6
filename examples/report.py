"""A form, answered by a page that shows the work while it is done, and without JavaScript as well."""

from flask import Flask, render_template, request

from afterload import append, text, value
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def work(numbers):
    for done, number in enumerate(numbers, 1):
        live.sleep(0.2)
        yield [value("#bar", done), append("#lines", f"{number} squared is {number * number}. ")]
    yield text("#result", f"The sum of the squares is {sum(n * n for n in numbers)}.")


@app.get("/")
def index():
    return render_template("report_form.html")


@app.post("/report")
def report():
    numbers = range(1, 1 + min(request.form.get("most", 10, type=int), 100))
    return live.document("report.html", work(numbers), most=len(numbers))
