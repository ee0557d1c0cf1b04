"""Pure mathematics of the methods: tensors in, tensor out, one module per family."""
