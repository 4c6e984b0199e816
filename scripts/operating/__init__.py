"""What operators' scripts share, and how some of them tell what they found."""
