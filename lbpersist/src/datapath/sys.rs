//! The system calls that aya has no form for: batched look-ups, maps with type information made at run time, and a barrier.
#![expect(unsafe_code, reason = "bpf(2), mmap(2) and membarrier(2) take addresses")]

use std::{
    ffi::CString,
    io,
    mem::{self, MaybeUninit},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr::{self, NonNull},
    time::Duration,
};

use aya::Pod;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_info, bpf_map_type};

/// What one batched look-up brought.
pub(super) struct Batch<K, V> {
    /// Keys and values, in the order of the table.
    pub(super) records: Vec<(K, V)>,
    /// Where to go on; `None` at the end.
    pub(super) next: Option<u32>,
}

/// Reads up to `room` records of a hash or array map, from where `after` says. A record that comes or goes meanwhile may be
/// missed or seen; one that stays is seen once.
pub(super) fn lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    after: Option<u32>,
    room: u32,
) -> io::Result<Batch<K, V>> {
    let mut room = room;
    loop {
        match try_lookup_batch(map, after, room) {
            // A bucket has more records than there is room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && room < 1 << 20 => room *= 2,
            result => return result,
        }
    }
}

fn try_lookup_batch<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    after: Option<u32>,
    room: u32,
) -> io::Result<Batch<K, V>> {
    let mut keys: Vec<MaybeUninit<K>> = Vec::with_capacity(room as usize);
    let mut values: Vec<MaybeUninit<V>> = Vec::with_capacity(room as usize);
    let mut next = 0_u32;
    let mut attributes = zeroed_attributes();
    // SAFETY: `batch` is the member that these commands read; plain integers.
    let batch = unsafe { &mut attributes.batch };
    batch.in_batch = after.as_ref().map_or(0, |after| ptr::from_ref(after) as u64);
    batch.out_batch = ptr::from_mut(&mut next) as u64;
    batch.keys = keys.as_mut_ptr() as u64;
    batch.values = values.as_mut_ptr() as u64;
    batch.count = room;
    batch.map_fd = raw(map);
    let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attributes);
    let ended = match result {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    // SAFETY: as above; the kernel has stored how many records it wrote.
    let count = unsafe { attributes.batch.count }.min(room) as usize;
    // SAFETY: the kernel wrote `count` keys and values, both have room for `room` of them, and any bits are a value.
    unsafe {
        keys.set_len(count);
        values.set_len(count);
    }
    let records = keys
        .into_iter()
        .zip(values)
        // SAFETY: as above.
        .map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) })
        .collect();
    Ok(Batch { records, next: (!ended).then_some(next) })
}

/// Makes an array map with the flags, key and value types of `template`, which must be an array, and `entries` places.
pub(super) fn create_array_like(
    template: BorrowedFd<'_>,
    name: &str,
    entries: u32,
    flags: u32,
) -> io::Result<OwnedFd> {
    let info = map_info(template)?;
    let btf = (info.btf_id != 0).then(|| btf_by_id(info.btf_id)).transpose()?;
    let mut attributes = zeroed_attributes();
    // SAFETY: the unnamed first member is the one that BPF_MAP_CREATE reads; plain integers.
    let create = unsafe { &mut attributes.__bindgen_anon_1 };
    create.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    create.key_size = info.key_size;
    create.value_size = info.value_size;
    create.max_entries = entries;
    create.map_flags = flags;
    for (place, byte) in create.map_name.iter_mut().zip(name.bytes().take(15)) {
        *place = byte as _;
    }
    if let Some(btf) = &btf {
        create.btf_fd = raw_owned(btf);
        create.btf_key_type_id = info.btf_key_type_id;
        create.btf_value_type_id = info.btf_value_type_id;
    }
    owned(bpf(bpf_cmd::BPF_MAP_CREATE, &mut attributes)?)
}

/// Puts maps into places of a map of maps, waiting once for programs that may still read what was there.
pub(super) fn update_maps(
    map: BorrowedFd<'_>,
    places: &[u32],
    inner: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let values: Vec<u32> = inner.iter().map(|fd| raw(*fd)).collect();
    let count = places.len().min(values.len());
    let mut attributes = zeroed_attributes();
    // SAFETY: `batch` is the member that this command reads; plain integers.
    let batch = unsafe { &mut attributes.batch };
    batch.keys = places.as_ptr() as u64;
    batch.values = values.as_ptr() as u64;
    batch.count = u32::try_from(count).map_err(io::Error::other)?;
    batch.map_fd = raw(map);
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attributes).map(drop)
}

/// Runs a program once on a frame, which it may change.
pub(super) fn run_program(program: BorrowedFd<'_>, frame: &mut [u8]) -> io::Result<()> {
    let mut attributes = zeroed_attributes();
    // SAFETY: `test` is the member that this command reads; plain integers.
    let test = unsafe { &mut attributes.test };
    test.prog_fd = raw(program);
    test.data_in = frame.as_ptr() as u64;
    test.data_out = frame.as_mut_ptr() as u64;
    test.data_size_in = u32::try_from(frame.len()).map_err(io::Error::other)?;
    test.data_size_out = test.data_size_in;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attributes).map(drop)
}

/// Takes the program of a pinned link off its interface. Removing the pin does that as well, but some time later.
pub(super) fn detach_link(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    let link = owned(bpf(bpf_cmd::BPF_OBJ_GET, &mut attributes)?)?;
    let mut attributes = zeroed_attributes();
    attributes.link_detach.link_fd = raw_owned(&link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attributes).map(drop)
}

/// Exchanges two directories in one step, so that whoever looks finds one or the other in its place.
pub(super) fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let [one, other] = [one, other]
        .map(|path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other));
    let (one, other) = (one?, other?);
    // SAFETY: two strings that end with zero and outlive the call.
    let result = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            one.as_ptr(),
            libc::AT_FDCWD,
            other.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until every program that runs now has ended: on return none still sees what was replaced before.
pub(super) fn wait_for_running_programs() {
    // MEMBARRIER_CMD_GLOBAL waits for a grace period (kernel/sched/membarrier.c), in which every BPF program ends.
    // SAFETY: three numbers, no addresses.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // A kernel with nohz_full refuses. A program runs for microseconds, so this is long.
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Memory of a map made with `BPF_F_MMAPABLE`, shared with the kernel.
pub(super) struct SharedMemory<T> {
    start: NonNull<T>,
    count: usize,
}

impl<T> SharedMemory<T> {
    /// Maps the first `count` values of an array map.
    ///
    /// `T` must be as long as the map's values and made of atomics, since programs write them meanwhile.
    pub(super) fn map(map: BorrowedFd<'_>, count: usize) -> io::Result<Self> {
        let length = count * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice; the map outlives it, because a mapping holds it.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, count })
    }

    /// The values.
    pub(super) fn values(&self) -> &[T] {
        // SAFETY: the mapping has `count` values, is page aligned and lives as long as `self`; the kernel changes values only
        // by word-sized stores, which is what the atomics in `T` are for.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl<T> Drop for SharedMemory<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, with its length; no reference outlives `self`. It cannot fail for such a range.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * size_of::<T>()) };
    }
}

/// Asks for the memory behind `values` in pages of 2 MB, which spares looking up where each of the small ones is. What comes of it
/// is the kernel's matter.
pub(super) fn prefer_huge_pages<T>(values: &mut [T]) {
    const PAGE: usize = 4_096;
    let start = values.as_mut_ptr().addr().next_multiple_of(PAGE);
    let end = values.as_mut_ptr_range().end.addr() / PAGE * PAGE;
    if start < end {
        // SAFETY: whole pages of memory that is ours alone, whose contents this advice does not touch.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
    }
}

fn map_info(map: BorrowedFd<'_>) -> io::Result<bpf_map_info> {
    // SAFETY: plain integers and arrays of them.
    let mut info: bpf_map_info = unsafe { mem::zeroed() };
    let mut attributes = zeroed_attributes();
    // SAFETY: `info` is the member that BPF_OBJ_GET_INFO_BY_FD reads; plain integers.
    let request = unsafe { &mut attributes.info };
    request.bpf_fd = raw(map);
    request.info_len = size_of::<bpf_map_info>() as u32;
    request.info = ptr::from_mut(&mut info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attributes)?;
    Ok(info)
}

fn btf_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attributes = zeroed_attributes();
    attributes.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
    owned(bpf(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attributes)?)
}

fn bpf(command: bpf_cmd, attributes: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attributes` is a whole, initialised `bpf_attr`, and the addresses in it belong to live values of the callers.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attributes), size_of::<bpf_attr>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn zeroed_attributes() -> bpf_attr {
    // SAFETY: a union of plain integers.
    unsafe { mem::zeroed() }
}

fn owned(result: i64) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the command has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn raw_owned(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}
