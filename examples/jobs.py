"""Work that a form starts, and that goes on without its page: loaded again, opened twice, closed and come back to."""

from flask import Flask, redirect, render_template, request, url_for

from afterload import LoopError, append
from afterload.flask import Live

app = Flask(__name__)
live = Live(app)


def import_addresses(lines):
    wrong = 0
    for line in live.job().track(lines, "#bar"):
        live.sleep(0.1)  # stands for the work
        if "@" not in line:
            wrong += 1
            yield append("#wrong", f"{line} is no address. ", keep=100)
    yield {"#result": f"{len(lines) - wrong} of {len(lines)} lines are addresses."}


@app.get("/")
def index():
    return render_template("jobs_form.html")


@app.post("/imports")
def start():
    lines = request.form["lines"].split()[:1000]
    try:
        job = live.start(import_addresses, lines)
    except LoopError:  # max_loops run
        return "Too much is being imported. Please try again in a minute.", 503
    return redirect(url_for("show", id=job.id), 303)


@app.get("/imports/<id>")
def show(id):
    return live.page("jobs.html", live.job(id), id=id)


@app.post("/imports/<id>/cancel")
def cancel(id):
    live.job(id).cancel()
    return redirect(url_for("show", id=id), 303)
