"""A calculator that adds: a page for people, JSON for programs."""

from flask import Flask, jsonify, request

app = Flask(__name__)

PAGE = """<!doctype html>
<html lang="en">
<title>Calculator</title>
<h1>Calculator</h1>
<form id="add"><input name="a" type="number" step="any" value="1"> +
<input name="b" type="number" step="any" value="2"> <button>=</button> <output></output></form>
<script>
document.getElementById("add").onsubmit = async event => {
  event.preventDefault();
  const form = event.target;
  const answer = await fetch("/add", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify({a: form.a.valueAsNumber, b: form.b.valueAsNumber}),
  });
  form.querySelector("output").value = (await answer.json()).result;
};
</script>
</html>
"""


@app.route("/")
def home():
    if "text/html" in request.headers.get("Accept", ""):
        return PAGE
    return jsonify({"message": "Calculator API", "version": "1.0"})


@app.route("/add", methods=["POST"])
def add():
    data = request.json
    return jsonify({"result": data["a"] + data["b"]})


if __name__ == "__main__":
    app.run(host="0.0.0.0", port=30194)
