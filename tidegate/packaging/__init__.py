"""Model packages: a trained model as ONNX with everything needed to prove, serve and watch it."""
