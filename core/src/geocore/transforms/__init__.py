"""What happens to values between file and model: normalization and augmentation."""
