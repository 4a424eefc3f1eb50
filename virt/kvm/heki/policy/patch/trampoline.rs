// SPDX-License-Identifier: GPL-2.0

//! Pages that a guest wants to run: nothing but INT3, or a trampoline of ftrace.
//!
//! A trampoline is made again here from its template in sealed text, as `create_trampoline()` of
//! `arch/x86/kernel/ftrace.c` makes it, and must be the same byte for byte. Left to the guest are
//! the tracer that it calls, which must be one, and the address of the `ftrace_ops`.
//! Neighbours: [`areas`](super::areas) for the templates, [`target`](super::target). Locks: none.

use super::{
    super::{
        abi,
        map::PAGE_SHIFT, //
    },
    insn::{
        Insn,
        INT3, //
    },
    its,
    read,
    target,
    Denied,
    Env,
    Text, //
};

/// Bytes of a page.
pub const PAGE_BYTES: usize = 1 << PAGE_SHIFT;
/// The bits of an address below a page.
const PAGE_OFFSET: u64 = (1 << PAGE_SHIFT) - 1;
/// The longest template, in bytes. Those of Linux have some 300.
const MAX_TEMPLATE: usize = 1024;
/// MOV from memory near RIP to RDX: loads the `ftrace_ops`.
const LOAD_OPS: [u8; 3] = [0x48, 0x8b, 0x15];
/// Bytes of it with its distance.
const LOAD_OPS_BYTES: usize = 7;
const CALL: u8 = 0xe8;
const CALL_BYTES: usize = 5;
const JNZ_SHORT: u8 = 0x75;
const NOP2: [u8; 2] = [0x66, 0x90];
const RET: u8 = 0xc3;
/// What may stand behind the template, in bytes: RET, with one INT3, or room for a jump.
const RETURN_BYTES: [usize; 3] = [1, 2, 5];
/// Instructions of a template that reach memory near RIP, up to the distance: per-CPU SAR and INC,
/// which count calls.
const RELATIVE: [[u8; 4]; 2] = [[0x65, 0x48, 0xc1, 0x3d], [0x65, 0x48, 0xff, 0x05]];
/// The first address that a kernel's data may have, with five levels of page tables.
const KERNEL_START: u64 = 0xff << 56;

/// A template of a trampoline: where it lies, and where in it things are, in bytes.
#[derive(Clone, Copy)]
struct Template {
    va: u64,
    len: usize,
    load_ops: usize,
    call: usize,
    jnz: Option<usize>,
}

impl Template {
    /// The templates that the guest gave: the plain one and the one that saves registers.
    fn all(env: &Env<'_>) -> impl Iterator<Item = Self> {
        let plain = Self::new(
            env,
            [
                abi::HEKI_AREA_FTRACE_CALLER,
                abi::HEKI_AREA_FTRACE_OP_PTR,
                abi::HEKI_AREA_FTRACE_CALL,
            ],
        );
        let regs = Self::new(
            env,
            [
                abi::HEKI_AREA_FTRACE_REGS_CALLER,
                abi::HEKI_AREA_FTRACE_REGS_OP_PTR,
                abi::HEKI_AREA_FTRACE_REGS_CALL,
            ],
        )
        .and_then(|regs| {
            let jnz = regs.offset(env, abi::HEKI_AREA_FTRACE_REGS_JMP, NOP2.len())?;
            Some(Self {
                jnz: Some(jnz),
                ..regs
            })
        });
        [plain, regs].into_iter().flatten()
    }

    fn new(env: &Env<'_>, [template, load_ops, call]: [u32; 3]) -> Option<Self> {
        let area = env.areas.get(template)?;
        let bare = Self {
            va: area.va,
            len: usize::try_from(area.len)
                .ok()
                .filter(|&len| len <= MAX_TEMPLATE)?,
            load_ops: 0,
            call: 0,
            jnz: None,
        };
        Some(Self {
            load_ops: bare.offset(env, load_ops, LOAD_OPS_BYTES)?,
            call: bare.offset(env, call, CALL_BYTES)?,
            ..bare
        })
    }

    /// Where the area of `kind`, of `len` bytes, lies in this template.
    fn offset(&self, env: &Env<'_>, kind: u32, len: usize) -> Option<usize> {
        let offset = env.areas.va(kind)?.checked_sub(self.va)?;
        let offset = usize::try_from(offset).ok()?;
        (offset.checked_add(len)? <= self.len).then_some(offset)
    }

    /// Whether `page` at `va` is a copy of it.
    fn is_copy(&self, va: u64, page: &[u8; PAGE_BYTES], env: &Env<'_>, text: &impl Text) -> bool {
        let mut buffer = [0; MAX_TEMPLATE];
        let Some(copy) = buffer.get_mut(..self.len) else {
            return false;
        };
        let Some((code, tail)) = page.split_at_checked(self.len) else {
            return false;
        };
        text.read(self.va, copy)
            && self.without_jnz(copy)
            && relocate(self.va, va, copy)
            && adopt(code, copy, self.call, &[CALL]).is_some()
            && adopt(code, copy, self.load_ops, &LOAD_OPS).is_some()
            && code == copy
            && self.has_tracer(va, code, env, text)
            && self.ends(va, code, tail, env).is_some()
    }

    /// Takes the JNZ out of `copy`, if the template has one; false if it should and does not.
    fn without_jnz(&self, copy: &mut [u8]) -> bool {
        let Some(jnz) = self.jnz else {
            return true;
        };
        let there = copy.get_mut(jnz..).and_then(<[u8]>::first_chunk_mut);
        match there {
            Some(bytes @ [JNZ_SHORT, _]) => {
                *bytes = NOP2;
                true
            }
            _ => false,
        }
    }

    /// Whether `code` at `va` calls a tracer where the template calls one.
    fn has_tracer(&self, va: u64, code: &[u8], env: &Env<'_>, text: &impl Text) -> bool {
        let call = code
            .get(self.call..)
            .and_then(<[u8]>::first_chunk::<CALL_BYTES>);
        let at = va.wrapping_add(self.call as u64);
        match call.and_then(|call| Insn::decode(at, call)) {
            Some(Insn::Call(tracer)) => target::is_tracer(tracer, env, text),
            _ => false,
        }
    }

    /// Checks that `tail`, what comes behind `code` in a page at `va`, is a return, the address of
    /// an `ftrace_ops` where the code loads it from, and INT3. `None` if it is not.
    fn ends(&self, va: u64, code: &[u8], tail: &[u8], env: &Env<'_>) -> Option<()> {
        let next = self.load_ops.checked_add(LOAD_OPS_BYTES)?;
        let distance = code.get(..next)?.last_chunk()?;
        let ops = next.checked_add(i32::from_le_bytes(*distance).try_into().ok()?)?;
        let return_bytes = ops.checked_sub(self.len)?;
        if !RETURN_BYTES.contains(&return_bytes) {
            return None;
        }

        let (ret, tail) = tail.split_at_checked(return_bytes)?;
        let (ops, tail) = tail.split_first_chunk()?;
        // The CPU could run these bytes too, so they are an address at least.
        let ops = u64::from_le_bytes(*ops);
        let is_address = ops >= KERNEL_START && ops.checked_rem(8) == Some(0);
        let at = va.wrapping_add(self.len as u64);
        (is_return(at, ret, env) && is_address && is_int3(tail)).then_some(())
    }
}

/// Makes instructions of `copy`, which is of code at `from`, reach the same memory near RIP from `to`;
/// false if one would not.
pub fn relocate(from: u64, to: u64, copy: &mut [u8]) -> bool {
    let moved = to.wrapping_sub(from) as i64;
    let mut at = 0;
    while let Some(bytes) = copy.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<8>) {
        let [a, b, c, d, distance @ ..] = *bytes;
        if RELATIVE.contains(&[a, b, c, d]) {
            let distance = i64::from(i32::from_le_bytes(distance));
            let Ok(now) = i32::try_from(distance.wrapping_sub(moved)) else {
                return false;
            };
            let [w, x, y, z] = now.to_le_bytes();
            *bytes = [a, b, c, d, w, x, y, z];
        }
        at = at.saturating_add(1);
    }
    true
}

/// Copies the distance behind `opcode`, which `copy` has at `at`, from `code`.
fn adopt(code: &[u8], copy: &mut [u8], at: usize, opcode: &[u8]) -> Option<()> {
    let rest = copy.get_mut(at..)?;
    let (found, rest) = rest.split_at_mut_checked(opcode.len())?;
    let from = at.checked_add(opcode.len())?;
    *rest.first_chunk_mut::<4>()? = *code.get(from..)?.first_chunk()?;
    (found == opcode).then_some(())
}

/// Whether `bytes` at `va` return, and do nothing else.
fn is_return(va: u64, bytes: &[u8], env: &Env<'_>) -> bool {
    if let Some(Insn::Jump(target)) = Insn::decode(va, bytes) {
        return env.areas.is(abi::HEKI_AREA_RETURN_THUNK, target);
    }
    bytes
        .split_first()
        .is_some_and(|(&first, rest)| first == RET && is_int3(rest))
}

fn is_int3(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == INT3)
}

/// The kind (`HEKI_KIND_*`) that `page` at `va` gets, if it may run.
///
/// # Errors
///
/// [`Denied::Content`] if it may not.
pub fn check_page(
    va: u64,
    page: &[u8; PAGE_BYTES],
    env: &Env<'_>,
    text: &impl Text,
) -> Result<u32, Denied> {
    let has_thunks = env.areas.get(abi::HEKI_AREA_ITS).is_some();
    if is_int3(page) || has_thunks && its::is_thunks(page) {
        return Ok(abi::HEKI_KIND_POOL);
    }
    if Template::all(env).any(|template| template.is_copy(va, page, env, text)) {
        return Ok(abi::HEKI_KIND_FTRACE);
    }
    Err(Denied::Content)
}

/// Whether an ftrace site may call `va`: one of the templates itself, or a copy.
pub fn is_entry(va: u64, env: &Env<'_>, text: &impl Text) -> bool {
    env.areas.is(abi::HEKI_AREA_FTRACE_CALLER, va)
        || env.areas.is(abi::HEKI_AREA_FTRACE_REGS_CALLER, va)
        || va & PAGE_OFFSET == 0 && text.kind(va) == Some(abi::HEKI_KIND_FTRACE)
}

/// Whether a copy of a template, in the page around `va`, calls its tracer there.
pub fn is_tracer_call(va: u64, env: &Env<'_>, text: &impl Text) -> bool {
    let page = va & !PAGE_OFFSET;
    Template::all(env).any(|template| {
        let load_ops = page.checked_add(template.load_ops as u64);
        // Only one of the templates has its load there.
        page.checked_add(template.call as u64) == Some(va)
            && load_ops.and_then(|va| read(text, va)) == Some(LOAD_OPS)
    })
}
