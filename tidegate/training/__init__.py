"""Training: the contract with the user's train function, and the validation of what it is trained on."""
