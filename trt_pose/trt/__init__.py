"""Access to the installed TensorRT, its plugins and engine files; used to build and to run engines."""
