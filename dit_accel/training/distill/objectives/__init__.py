"""What a distilled network is to learn, one method a file."""
