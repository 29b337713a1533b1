//! What soak runs and benches share.
//!
//! Owns how figures are printed (`figures`), where the workspace and its built programs lie (`place`), and a herdwire
//! of one's own that leaves nothing behind (`stand`).

#![deny(unsafe_code)]

pub mod figures;
pub mod place;
