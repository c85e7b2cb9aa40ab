"""Object stores and servers, through fsspec: listing, reading, fetching and writing of remote objects."""
