//! Where a new record is put together before it goes into a table: not on the stack, of which there is too little.
#![expect(unsafe_code, reason = "the place is reached through a pointer into a per-CPU map")]

use bytemuck::Pod;

use crate::maps::RECORD;

/// Room for the longest record.
#[repr(C, align(8))]
pub(crate) struct Record([u64; 4]);

/// Calls `insert` with `record` where it does not use the stack; -1 when there is no such place, as if a table had refused it.
#[inline(always)]
pub(crate) fn insert<R: Pod>(
    record: R,
    insert: impl FnOnce(&R) -> Result<(), i32>,
) -> Result<(), i32> {
    const { assert!(size_of::<R>() <= size_of::<Record>()) };
    let Some(place) = RECORD.get_ptr_mut(0) else { return Err(-1) };
    let place = place.cast::<R>();
    // SAFETY: the place is this CPU's own, XDP programs on one CPU run one after the other, and it is long enough and
    // aligned for any record.
    unsafe {
        *place = record;
        insert(&*place)
    }
}
