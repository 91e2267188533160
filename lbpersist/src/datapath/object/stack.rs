//! How much of the stack the programs use: 512 bytes are for all functions that are under way at a time.
//! `cargo test -p lbpersist --lib object::stack -- --nocapture` prints each program's deepest chain of calls.

use std::collections::BTreeMap;

use aya_obj::{
    Object,
    generated::{BPF_PSEUDO_CALL, BPF_PSEUDO_FUNC, bpf_insn},
};

use super::OBJECT;

/// What the kernel allows.
const WHOLE: usize = 512;
/// What has to be left for whoever changes a program next. Another compiler may need some of it as well.
const SPARE: usize = 32;
/// The kernel counts frames in steps of so many bytes (`check_max_stack_depth`), and at least one of them.
const STEP: usize = 16;
/// Register 10.
const FRAME_POINTER: u8 = 10;
/// Register moves and additions of 64 bits.
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
/// The classes of instructions that load, store a number, and store a register; what is called.
const LOAD: u8 = 0x01;
const STORE_NUMBER: u8 = 0x02;
const STORE: u8 = 0x03;
const CALL: u8 = 0x85;
const REFERENCE: u8 = 0x18;

#[test]
fn every_program_leaves_some_of_its_stack() {
    let chains = deepest_chains();
    assert!(chains.len() >= 6, "{} programs", chains.len());
    for (program, frames) in chains {
        let used: usize = frames.iter().map(|(_, bytes)| bytes).sum();
        println!("{program}: {used} bytes");
        frames.iter().for_each(|(name, bytes)| println!("    {bytes:>3} {name}"));
        assert!(used <= WHOLE - SPARE, "{program} uses {used} bytes: {frames:?}");
    }
}

/// A function and the bytes of its frame.
type Frame = (String, usize);

/// Of each program the chain of calls that needs most.
fn deepest_chains() -> BTreeMap<String, Vec<Frame>> {
    let mut object = Object::parse(OBJECT).expect("an object");
    let apart: Vec<_> = object.functions.values().cloned().collect();
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).expect("calls that lead to functions");
    let programs = object.programs.iter().map(|(program, found)| {
        let code = Code(&object.functions[&found.function_key()].instructions);
        // Linking keeps all but what calls lead to.
        let shape = |one: &bpf_insn| (one.code, one.dst_reg(), one.off);
        let named = |(at, bytes): (usize, usize)| {
            let matches = |whole: &[bpf_insn]| {
                let here = code.0[at..].iter().map(shape);
                whole.len() <= code.0.len() - at
                    && whole.iter().map(shape).eq(here.take(whole.len()))
            };
            let function = apart.iter().find(|function| matches(&function.instructions));
            (function.map_or("?", |function| &function.name).to_owned(), bytes)
        };
        (program.clone(), code.deepest_from(0).into_iter().map(named).collect())
    });
    programs.collect()
}

/// A program with all of its functions, one behind the other.
struct Code<'a>(&'a [bpf_insn]);

impl Code<'_> {
    /// The chain of calls that needs most, from the function that begins at `start`: where each begins, and its bytes. What
    /// the verifier accepts calls nothing that is under way.
    fn deepest_from(&self, start: usize) -> Vec<(usize, usize)> {
        let starts = self.starts();
        let end = starts.iter().copied().find(|&next| next > start).unwrap_or(self.0.len());
        let own = (start, self.frame(start..end));
        let chains = (start..end).filter_map(|at| self.called(at)).map(|to| self.deepest_from(to));
        let depth =
            |chain: &Vec<(usize, usize)>| chain.iter().map(|(_, bytes)| bytes).sum::<usize>();
        let deepest = chains.max_by_key(depth).unwrap_or_default();
        [own].into_iter().chain(deepest).collect()
    }

    /// Where functions begin, in order.
    fn starts(&self) -> Vec<usize> {
        let mut starts: Vec<_> = (0..self.0.len()).filter_map(|at| self.called(at)).collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// The function that an instruction calls, or has the kernel call.
    fn called(&self, at: usize) -> Option<usize> {
        let one = &self.0[at];
        let kind = u32::from(one.src_reg());
        let calls = one.code == CALL && kind == BPF_PSEUDO_CALL
            || one.code == REFERENCE && kind == BPF_PSEUDO_FUNC;
        calls.then(|| usize::try_from(at as i64 + i64::from(one.imm) + 1).expect("a place"))
    }

    /// The bytes of a function's frame, as the kernel counts them.
    fn frame(&self, function: std::ops::Range<usize>) -> usize {
        let code = &self.0[function];
        let places = code.iter().enumerate().map(|(at, one)| match one.code & 0x07 {
            LOAD if one.src_reg() == FRAME_POINTER => i64::from(one.off),
            STORE_NUMBER | STORE if one.dst_reg() == FRAME_POINTER => i64::from(one.off),
            // An address on the stack is made by two instructions.
            _ if one.code == MOVE && one.src_reg() == FRAME_POINTER => {
                let added = code[at + 1..].iter().find(|next| next.dst_reg() == one.dst_reg());
                added.filter(|next| next.code == ADD).map_or(0, |next| i64::from(next.imm))
            }
            _ => 0,
        });
        let deepest = usize::try_from(-places.min().unwrap_or(0)).expect("the stack grows down");
        deepest.max(1).next_multiple_of(STEP)
    }
}
