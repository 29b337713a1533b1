//! The status server over real sockets.
