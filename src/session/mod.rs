//! [`Session`]: the dictionary a web handler works with.
