//! The half of the packet path that needs neither maps nor the kernel: bounds, words, checksums, headers.
//!
//! The XDP programs are built on it. It builds for the host as well, where the same code is fed random packets.
#![cfg_attr(not(test), no_std)]
// Inline assembly for BPF; what builds for that target is a nightly compiler or one that acts as such.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

pub mod checksum;
pub mod cursor;
pub mod load;
pub mod parse;
pub mod shape;
