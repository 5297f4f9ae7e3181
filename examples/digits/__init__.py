"""The digits example: a PyTorch CNN on scikit-learn's handwritten digits, from training to an answer over HTTP."""
