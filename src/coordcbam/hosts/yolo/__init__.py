"""What our Ultralytics file is made of that needs no Ultralytics: networks as lists of layers."""
