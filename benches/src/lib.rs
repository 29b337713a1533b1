//! What soak runs and benches share.
//!
//! Owns how figures are printed (`figures`), where the built programs lie (`place`), a herdwire of one's own that leaves
//! nothing behind (`stand`), and the wish of whoever started a run to end it (`interrupt`).

#![deny(unsafe_code)]

pub mod figures;
pub mod interrupt;
pub mod place;
pub mod stand;
