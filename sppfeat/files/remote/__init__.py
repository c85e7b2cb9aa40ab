"""What lies on other machines: object stores and servers, through fsspec."""
