//! The test binary's `__stage` role.
//!
//! [`super::spawn`] executes the binary that runs: in unit tests, the test binary, whose `main` belongs to the test
//! harness. This gets in before it.

// A function in the table of those that run before main: nothing safe puts one there.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};

/// Runs after std's own entry (which makes `args_os` work) and before main.
#[used]
// SAFETY: the table holds pointers to functions with just this signature, and this is one.
#[unsafe(link_section = ".init_array")]
static PART_ROLES: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = part_roles;

extern "C" fn part_roles(_count: c_int, _args: *const *const c_char, _environment: *const *const c_char) {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|role| role == super::stage::ROLE) {
        super::stage::main(args)
    }
}
