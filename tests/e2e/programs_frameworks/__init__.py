"""Small applications, configured as each framework's users configure raven."""
