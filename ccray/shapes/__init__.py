"""The shapes world: a drawn world in which a picture and its caption can be checked against each other without a network."""
