//! The accounts that the flood's workers keep, as their readers need them.

#![deny(unsafe_code)]
