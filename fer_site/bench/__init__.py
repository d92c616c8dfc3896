"""How fast it is, each figure beside a reference measured in the same run: `make bench`.

python -m fer_site.bench [--json FILE] [--docs] [ROW ...]

Rows are medians over RUNS runs after a warm-up, of what takes long over fewer; where two things are compared
they take turns, so that a machine whose speed drifts slows both. What needs a fresh process, or TensorFlow,
runs in one of its own. The photos are made from the two samples that come with the site.
"""
