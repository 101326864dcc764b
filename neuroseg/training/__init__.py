"""The U-Net, its training, and the fine-tuning of spiking networks."""
