// SPDX-License-Identifier: GPL-2.0

//! A toy kernel: a few pages of sealed text with one of everything, for tests and fuzz targets.

use heki_abi::*;
use heki_policy::patch::areas::Areas;
use heki_policy::patch::probes::{self, Probe};
use heki_policy::patch::profile::Profile;
use heki_policy::patch::sites::{Packed, Rule, Site};
use heki_policy::patch::{Env, Text};
use zerocopy::IntoBytes;

/// Where `_text` is in the file, and in the guest.
pub(crate) const BASE: u64 = 0xffff_ffff_8100_0000;
pub(crate) const TEXT: u64 = BASE + (18 << 20);
pub(crate) const TEXT_LEN: u64 = 0x8000;
/// Sealed, and does not run.
pub(crate) const RODATA: u64 = TEXT + 0x40_0000;
pub(crate) const MODULE: u64 = 0xffff_ffff_c000_0000;
/// A copy of an ftrace template.
pub(crate) const COPY: u64 = MODULE + 0x10_0000;
/// Nothing but INT3.
pub(crate) const POOL: u64 = MODULE + 0x20_0000;

/// A label of five bytes and one of two, and where they jump to.
pub(crate) const LABEL5: u64 = TEXT + 0x100;
pub(crate) const LABEL2: u64 = TEXT + 0x110;
pub(crate) const LABEL_TARGET: u64 = TEXT + 0x140;
pub(crate) const CALL: u64 = TEXT + 0x200;
pub(crate) const TAIL: u64 = TEXT + 0x210;
pub(crate) const COND: u64 = TEXT + 0x220;
/// A static call that was empty at the seal.
pub(crate) const EMPTY: u64 = TEXT + 0x230;
pub(crate) const FROZEN: u64 = TEXT + 0x240;
/// The trampoline of a static call, in the kernel and in a module.
pub(crate) const TRAMP: u64 = TEXT + 0x1000;
pub(crate) const MODULE_TRAMP: u64 = MODULE + 0x800;
/// UD1 with which it ends.
pub(crate) const TRAMP_UD: [u8; 3] = [0x0f, 0xb9, 0xcc];

/// Functions of one type, one of another, and their like in a module.
pub(crate) const FIRST: u64 = TEXT + 0x2000;
pub(crate) const SECOND: u64 = TEXT + 0x2040;
pub(crate) const OTHER: u64 = TEXT + 0x2080;
/// Calls functions of the type of `PROBE`.
pub(crate) const ITERATOR: u64 = TEXT + 0x20c0;
pub(crate) const PROBE: u64 = TEXT + 0x2100;
pub(crate) const TRACER: u64 = TEXT + 0x2140;
pub(crate) const STUB: u64 = TEXT + 0x2180;
pub(crate) const RETURN0: u64 = TEXT + 0x21c0;
pub(crate) const WARN: u64 = TEXT + 0x2200;
pub(crate) const UNLOCK: u64 = TEXT + 0x2240;
pub(crate) const STATIC_RETURN: u64 = TEXT + 0x2280;
pub(crate) const THUNK: u64 = TEXT + 0x22c0;
pub(crate) const MODULE_FIRST: u64 = MODULE + 0x100;
pub(crate) const MODULE_OTHER: u64 = MODULE + 0x140;

/// Functions that begin with ENDBR64, with the hash of their type.
pub(crate) const FUNCTIONS: [(u64, u32); 10] = [
    (FIRST, 0x1111_1111),
    (SECOND, 0x1111_1111),
    (OTHER, 0x2222_2222),
    (ITERATOR, 0x3333_3333),
    (PROBE, 0x4444_4444),
    (TRACER, 0x5555_5555),
    (STUB, 0x5555_5555),
    (RETURN0, 0x6666_6666),
    (MODULE_FIRST, 0x1111_1111),
    (MODULE_OTHER, 0x2222_2222),
];
/// The call that ftrace fills, behind the ENDBR64.
pub(crate) const FTRACE: u64 = FIRST + 4;

/// A function with instructions that may be probed: one of three bytes, one that loads from memory
/// near itself, one that jumps.
pub(crate) const PROBED: u64 = TEXT + 0x2300;
pub(crate) const PROBED_LOAD: u64 = PROBED + 7;
pub(crate) const PROBED_JUMP: u64 = PROBED + 14;
pub(crate) const PROBED_BODY: [u8; 17] = [
    0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x85, 0xff, 0x48, 0x8b, 0x05, 0x10, 0x32, 0x54, 0x76, 0x74, 0x00,
    0xc3,
];
/// The addresses of the list: three that count, and those where other rules hold or none begins.
pub(crate) const PROBES: [u64; 11] = [
    TEXT,
    LABEL5,
    LABEL5 + 4,
    CALL,
    FIRST,
    PROBED,
    PROBED + 5,
    PROBED_LOAD,
    PROBED_JUMP,
    CALLER,
    CALLER + TRACER_CALL as u64,
];
/// Where INT3 may stand.
pub(crate) const BREAKPOINTS: [u64; 3] = [PROBED + 4, PROBED_LOAD, PROBED_JUMP];

/// What counts the depth of calls, in front of functions.
pub(crate) const PAD_TEMPLATE: u64 = RODATA + 0x400;

/// The templates, and in them the load of the `ftrace_ops` and the call of the tracer.
pub(crate) const CALLER: u64 = TEXT + 0x4010;
pub(crate) const CALLER_LEN: usize = 64;
pub(crate) const LOAD: usize = 16;
pub(crate) const TRACER_CALL: usize = 40;
pub(crate) const REGS: u64 = TEXT + 0x5008;
pub(crate) const REGS_LEN: usize = 80;
pub(crate) const REGS_LOAD: usize = 20;
pub(crate) const REGS_TRACER_CALL: usize = 48;
pub(crate) const REGS_JNZ: usize = 60;

pub(crate) const NOP2: [u8; 2] = [0x66, 0x90];
pub(crate) const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0, 0];
pub(crate) const RET5: [u8; 5] = [0xc3, 0xcc, 0xcc, 0xcc, 0xcc];
pub(crate) const XOR5: [u8; 5] = [0x2e, 0x2e, 0x2e, 0x31, 0xc0];
pub(crate) const UD5: [u8; 5] = [0x67, 0x48, 0x0f, 0xb9, 0x3a];
pub(crate) const MOV5: [u8; 5] = [0x3e, 0x3e, 0xc6, 0x07, 0x00];

/// `opcode` and the distance from behind it, at `va`, to `to`.
pub(crate) fn near(opcode: &[u8], va: u64, to: u64) -> Vec<u8> {
    let end = va.wrapping_add(opcode.len() as u64 + 4);
    let distance = to.wrapping_sub(end) as u32;
    [opcode, distance.to_le_bytes().as_slice()].concat()
}

pub(crate) fn call(va: u64, to: u64) -> Vec<u8> {
    near(&[0xe8], va, to)
}

pub(crate) fn jump(va: u64, to: u64) -> Vec<u8> {
    near(&[0xe9], va, to)
}

pub(crate) fn jump_short(va: u64, to: u64) -> Vec<u8> {
    vec![0xeb, to.wrapping_sub(va.wrapping_add(2)) as u8]
}

pub(crate) fn branch(condition: u8, va: u64, to: u64) -> Vec<u8> {
    near(&[0x0f, condition], va, to)
}

/// Memory of the guest that nobody can write.
#[derive(Clone)]
pub(crate) struct Memory {
    va: u64,
    kind: Option<u32>,
    bytes: Vec<u8>,
}

/// The kernel.
#[derive(Clone)]
pub(crate) struct Toy {
    pub(crate) memory: Vec<Memory>,
    pub(crate) areas: Vec<Area>,
    pub(crate) sites: Vec<Site>,
    pub(crate) profile: Vec<u8>,
}

impl Text for Toy {
    fn read(&self, va: u64, out: &mut [u8]) -> bool {
        let found = self.memory.iter().find_map(|memory| {
            let at = usize::try_from(va.checked_sub(memory.va)?).ok()?;
            memory.bytes.get(at..at.checked_add(out.len())?)
        });
        if let Some(found) = found {
            out.copy_from_slice(found);
        }
        found.is_some()
    }

    fn kind(&self, va: u64) -> Option<u32> {
        let holds = |memory: &&Memory| {
            va.checked_sub(memory.va)
                .is_some_and(|at| at < memory.bytes.len() as u64)
        };
        self.memory.iter().find(holds)?.kind
    }
}

impl Toy {
    /// A kernel of which everything is known.
    pub(crate) fn new() -> Self {
        let memory = |va, kind, len: u64| Memory {
            va,
            kind,
            bytes: vec![0xcc; len as usize],
        };
        let mut toy = Self {
            memory: vec![
                memory(TEXT, Some(HEKI_KIND_TEXT), TEXT_LEN),
                memory(RODATA, None, 0x1000),
                memory(MODULE, Some(HEKI_KIND_MODULE_TEXT), 0x1000),
                memory(COPY, Some(HEKI_KIND_FTRACE), 0x1000),
                memory(POOL, Some(HEKI_KIND_POOL), 0x1000),
            ],
            areas: areas(),
            sites: sites(),
            profile: profile(
                &functions(),
                &[offset(FTRACE)],
                &[offset(TEXT + 0x50_0000)],
                &PROBES.map(offset),
            ),
        };
        toy.place_functions();
        toy.place_sites();
        toy.place_templates();
        toy
    }

    pub(crate) fn poke(&mut self, va: u64, bytes: &[u8]) {
        let memory = self
            .memory
            .iter_mut()
            .find(|memory| (memory.va..memory.va + memory.bytes.len() as u64).contains(&va))
            .expect("memory of the toy");
        let at = (va - memory.va) as usize;
        memory.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn peek(&self, va: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert!(self.read(va, &mut bytes));
        bytes
    }

    /// The same kernel, not knowing what the areas of `kinds` tell.
    pub(crate) fn without(mut self, kinds: &[u32]) -> Self {
        self.areas.retain(|area| !kinds.contains(&area.kind));
        self
    }

    /// The same kernel, without a profile.
    pub(crate) fn without_profile(mut self) -> Self {
        self.profile.clear();
        self
    }

    /// Calls `use_it` with what the rules judge by.
    pub(crate) fn with_env<T>(&self, use_it: impl FnOnce(&Env<'_>) -> T) -> T {
        let areas = Areas::new(self.areas.iter().copied());
        let profile = (!self.profile.is_empty()).then(|| {
            let profile = Profile::parse(&self.profile).expect("a good profile");
            profile
                .matches(TEXT, TEXT_LEN, b"toy")
                .expect("this kernel")
        });
        let sites = packed(&self.sites);
        let env = Env {
            areas: &areas,
            sites: &sites,
            probes: &[],
            profile,
        };
        let listed = profile.into_iter().flat_map(|profile| profile.probes());
        let mut probes: Vec<_> = listed
            .filter_map(|va| Probe::find(va, &env, self))
            .collect();
        let used = probes::finish(&mut probes);
        use_it(&Env {
            probes: &probes[..used],
            ..env
        })
    }

    fn place_functions(&mut self) {
        self.poke(PROBED, &PROBED_BODY);
        for (va, hash) in FUNCTIONS {
            let mov = [&[0xb8], hash.to_le_bytes().as_slice()].concat();
            self.poke(va - 16, &[mov, vec![0x90; 11]].concat());
            let body = [
                &[0xf3, 0x0f, 0x1e, 0xfa],
                NOP5.as_slice(),
                &[0x31, 0xc0, 0xc3],
            ];
            self.poke(va, &body.concat());
        }
        let wanted = 0x4444_4444u32.wrapping_neg().to_le_bytes();
        let check = [&[0x41, 0xba], wanted.as_slice(), &[0x45, 0x03, 0x53, 0xf1]];
        self.poke(ITERATOR + 16, &check.concat());
        for va in [WARN, UNLOCK, STATIC_RETURN, THUNK] {
            self.poke(va, &[0xc3]);
        }
    }

    fn place_sites(&mut self) {
        self.poke(LABEL5, &NOP5);
        self.poke(LABEL2, &NOP2);
        self.poke(CALL, &call(CALL, FIRST));
        self.poke(TAIL, &jump(TAIL, FIRST));
        self.poke(COND, &branch(0x84, COND, FIRST));
        self.poke(EMPTY, &NOP5);
        self.poke(FROZEN, &NOP5);
        for va in [TRAMP, MODULE_TRAMP] {
            self.poke(va, &jump(va, FIRST));
            self.poke(va + 5, &TRAMP_UD);
        }
    }

    fn place_templates(&mut self) {
        for va in CALLER..CALLER + CALLER_LEN as u64 {
            self.poke(va, &[va as u8]);
        }
        for va in REGS..REGS + REGS_LEN as u64 {
            self.poke(va, &[!va as u8]);
        }
        for (template, load, tracer) in [
            (CALLER, LOAD, TRACER_CALL),
            (REGS, REGS_LOAD, REGS_TRACER_CALL),
        ] {
            let (load, tracer) = (template + load as u64, template + tracer as u64);
            self.poke(load, &near(&[0x48, 0x8b, 0x15], load, TEXT + 0x60_0000));
            self.poke(tracer, &call(tracer, STUB));
            // Counts the depth of calls, in per-CPU memory.
            let count = template + 28;
            self.poke(
                count,
                &near(&[0x65, 0x48, 0xc1, 0x3d], count, TEXT + 0x70_0000),
            );
        }
        self.poke(REGS + REGS_JNZ as u64, &[0x75, 0x30]);
        self.poke(PAD_TEMPLATE, &pad(PAD_TEMPLATE));
        let copy = trampoline(self, COPY, TRACER);
        self.poke(COPY, &copy);
    }
}

/// What counts the depth of calls, as it must be at `va`.
pub(crate) fn pad(va: u64) -> Vec<u8> {
    let sar = near(&[0x65, 0x48, 0xc1, 0x3d], va, TEXT + 0x70_0000);
    [&sar[..], &[5]].concat()
}

/// A page at `va` with a copy of the plain template that calls `tracer`, as Linux makes it.
pub(crate) fn trampoline(toy: &Toy, va: u64, tracer: u64) -> Vec<u8> {
    let mut page = toy.peek(CALLER, CALLER_LEN);
    let at = |offset: usize| va + offset as u64;
    let ops = CALLER_LEN + 5;
    page[LOAD..LOAD + 7].copy_from_slice(&near(&[0x48, 0x8b, 0x15], at(LOAD), at(ops)));
    page[TRACER_CALL..TRACER_CALL + 5].copy_from_slice(&call(at(TRACER_CALL), tracer));
    let count = near(&[0x65, 0x48, 0xc1, 0x3d], at(28), TEXT + 0x70_0000);
    page[28..36].copy_from_slice(&count);
    page.extend_from_slice(&jump(at(CALLER_LEN), THUNK));
    page.extend_from_slice(&0xffff_8880_1234_5678u64.to_le_bytes());
    page.resize(4096, 0xcc);
    page
}

fn areas() -> Vec<Area> {
    let area = |(kind, va, len)| Area {
        kind,
        reserved: 0,
        va,
        len,
    };
    [
        (HEKI_AREA_RO_AFTER_INIT, RODATA + 0x800, 0x800),
        (HEKI_AREA_STATIC_CALL_TEXT, TRAMP, 0x100),
        (HEKI_AREA_FTRACE_CALLER, CALLER, CALLER_LEN as u64),
        (HEKI_AREA_FTRACE_REGS_CALLER, REGS, REGS_LEN as u64),
        (HEKI_AREA_FTRACE_CALL, CALLER + TRACER_CALL as u64, 0),
        (HEKI_AREA_FTRACE_OP_PTR, CALLER + LOAD as u64, 0),
        (
            HEKI_AREA_FTRACE_REGS_CALL,
            REGS + REGS_TRACER_CALL as u64,
            0,
        ),
        (HEKI_AREA_FTRACE_REGS_OP_PTR, REGS + REGS_LOAD as u64, 0),
        (HEKI_AREA_FTRACE_REGS_JMP, REGS + REGS_JNZ as u64, 0),
        (HEKI_AREA_FTRACE_STUB, STUB, 0),
        (HEKI_AREA_RETURN_THUNK, THUNK, 0),
        (HEKI_AREA_STATIC_RETURN, STATIC_RETURN, 0),
        (HEKI_AREA_STATIC_RETURN0, RETURN0, 0),
        (HEKI_AREA_WARN_TRAP, WARN, 0),
        (HEKI_AREA_SPIN_UNLOCK, UNLOCK, 0),
        (HEKI_AREA_CFI_HASH, 15, 0),
        (HEKI_AREA_ENDBR, 0, 0),
        (HEKI_AREA_CALL_DEPTH, PAD_TEMPLATE, 9),
    ]
    .map(area)
    .to_vec()
}

fn sites() -> Vec<Site> {
    let label = Rule::JumpLabel {
        target: LABEL_TARGET,
    };
    let call = |tail, exemplar| Rule::StaticCall { tail, exemplar };
    [
        (LABEL5, 5, label),
        (LABEL2, 2, label),
        (CALL, 5, call(false, FIRST)),
        (TAIL, 5, call(true, FIRST)),
        (COND, 6, call(true, FIRST)),
        (EMPTY, 5, call(false, 0)),
        (FROZEN, 5, Rule::Frozen),
        (TRAMP, 5, call(true, FIRST)),
        (MODULE_TRAMP, 5, call(true, FIRST)),
    ]
    .map(|(va, len, rule)| Site { va, len, rule })
    .to_vec()
}

/// The `sites` as the host keeps them.
pub(crate) fn packed(sites: &[Site]) -> Vec<Packed> {
    let pack = |site| Packed::new(site).expect("in reach of the kernel");
    sites.iter().map(pack).collect()
}

fn offset(va: u64) -> u32 {
    (va - TEXT) as u32
}

/// The functions of the kernel, without the module's.
pub(crate) fn functions() -> Vec<u32> {
    let all = FUNCTIONS.iter().map(|function| function.0);
    let all = all.filter(|&va| va < MODULE).chain([PROBED]);
    all.map(offset).collect()
}

/// The bytes of a profile.
pub(crate) fn profile(functions: &[u32], calls: &[u32], frozen: &[u32], probes: &[u32]) -> Vec<u8> {
    let mut build_id = [0; 32];
    build_id[..3].copy_from_slice(b"toy");
    let header = heki_abi::Profile {
        version: HEKI_ABI_VERSION,
        nr_functions: functions.len() as u32,
        nr_calls: calls.len() as u32,
        nr_frozen: frozen.len() as u32,
        nr_probes: probes.len() as u32,
        reserved: 0,
        base: BASE,
        text_len: TEXT_LEN,
        build_id_offset: 0x40_0000,
        build_id_len: 3,
        build_id,
    };
    [
        header.as_bytes(),
        functions.as_bytes(),
        calls.as_bytes(),
        frozen.as_bytes(),
        probes.as_bytes(),
    ]
    .concat()
}
