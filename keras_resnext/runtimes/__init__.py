"""What runs a model: Keras, TensorFlow, LiteRT, ONNX Runtime."""
