import os

# Before SciPy is imported: scikit-learn skips one of its checks without it.
os.environ.setdefault("SCIPY_ARRAY_API", "1")
