// SPDX-License-Identifier: GPL-2.0

//! The order of work: ask, check, turn off, hook, refuse, bring to rest, seal, report.
//!
//! Everything that can be checked is checked before anything changes, so a load that fails for want of a protection
//! leaves the kernel as it was.
//!
//! Neighbours: all the other rooms. Locks: those of [`Still`](crate::hooks::Still) around the seal itself; everything
//! here may sleep.

#![deny(unsafe_code)]

use kernel::prelude::*;
use zerocopy::{
    FromZeros,
    IntoBytes, //
};

use crate::{
    abi,
    ffi,
    hooks::Hooks,
    hypercall,
    lifecycle::{
        self,
        Blocked, //
    },
    pins::{
        Fate,
        Registers,
        BITS,
        CR4_SMEP, //
    },
    ranges::Span,
    report,
    require,
    sections::{
        self,
        Sections, //
    },
    show,
    switch::Bpf,
    tables, //
};

/// Changes of text without which a kernel does not live long: the host serves both, or none counts.
const VITAL: u32 = abi::HEKI_PATCH_JUMP_LABEL | abi::HEKI_PATCH_STATIC_CALL;

/// A protection that can be had, or why not.
pub(crate) type Offer = core::result::Result<(), &'static str>;

/// What to ask the host for.
pub(crate) struct Plan {
    /// Sealed memory cannot be written.
    pub(crate) write: Offer,
    /// Supervisor mode runs listed memory only.
    pub(crate) exec: Offer,
    /// The control-register bits that this CPU has set stay set.
    pub(crate) cr: Offer,
    /// The registers that a kernel sets at boot keep their value.
    pub(crate) msr: Offer,
    /// The interrupt table stays where it is.
    pub(crate) dt: Offer,
    /// Which bits and registers those are.
    pub(crate) registers: Registers,
    /// Which changes of text the host serves, and what it checks of them; 0 if text stays as it is.
    pub(crate) patch: u32,
    /// `1 << HEKI_CLASS_*` of what the host would deny, but allows.
    pub(crate) learning: u32,
}

/// Why nothing is held where the host only learns.
pub(crate) const LEARNING: &str = "LEARNING: the host reports what it would deny, and allows it";

/// Seals this kernel. `require` and `bpf` are the module's parameters.
pub(crate) fn load(require: &[u8], bpf: &[u8]) -> Result {
    let required = require::parse(require)?;
    let bpf = Bpf::parse(bpf)?;
    let query = ask_host()?;
    let plan = Plan::new(&query)?;
    plan.check(required)?;
    let before = sections::scan()?;
    build(&plan, &before, &query)?;

    let compiler = bpf.apply()?;
    let hooks = if plan.patch != 0 {
        Some(Hooks::install()?)
    } else {
        lifecycle::settle_clock()?;
        None
    };
    let blocked = Blocked::new(plan.patch == 0)?;
    let sections = seal(&plan, &query, hooks, before)?;

    let plan = plan.confirmed(&hypercall::query().unwrap_or_else(|_| abi::Query::new_zeroed()));
    report::sealed(&plan, &sections);
    blocked.keep(plan.patch);
    show::keep(plan, sections);
    if let Some(compiler) = compiler {
        compiler.keep();
    }
    Ok(())
}

/// Asks for the seal while nobody changes text, nor is anything else than at the look `before`; from then on `hooks` see
/// every change.
fn seal(
    plan: &Plan,
    query: &abi::Query,
    hooks: Option<Hooks>,
    before: Sections,
) -> Result<Sections> {
    let (sections, still) = lifecycle::settle(before)?;
    if plan.patch != 0 {
        lifecycle::refuse_traced(&still)?;
    }
    let mut request = build(plan, &sections, query)?;
    hypercall::seal(&mut request).inspect_err(|err| {
        pr_err!(
            "the host refuses to seal this kernel (error {})\n",
            err.to_errno()
        );
    })?;
    if let Some(hooks) = hooks {
        hooks.keep(&still);
    }
    Ok(sections)
}

/// Asks what the host offers.
fn ask_host() -> Result<abi::Query> {
    if !ffi::on_kvm() {
        pr_err!("this kernel does not run under KVM; not sealed\n");
        return Err(ENODEV);
    }
    let query = hypercall::query().inspect_err(|err| {
        pr_err!(
            "this host does not offer Heki to this guest (error {}); not sealed\n",
            err.to_errno()
        );
    })?;
    if query.version != abi::HEKI_ABI_VERSION {
        pr_err!(
            "the host speaks version {} of the ABI and not {}; not sealed\n",
            query.version,
            abi::HEKI_ABI_VERSION
        );
        return Err(EPROTO);
    }
    match query.state {
        abi::HEKI_STATE_OPEN => Ok(query),
        abi::HEKI_STATE_SEALED => {
            pr_err!("this guest is already sealed, until it is reset\n");
            Err(EBUSY)
        }
        _ => {
            pr_err!("the host has not enabled Heki for this guest; not sealed\n");
            Err(ENODEV)
        }
    }
}

impl Plan {
    fn new(query: &abi::Query) -> Result<Self> {
        let registers = Registers::read(query)?;
        let has = |prot| query.available & prot != 0;
        let write = if has(abi::HEKI_PROT_WRITE) {
            Ok(())
        } else {
            Err("the host does not offer it")
        };
        let exec = if !has(abi::HEKI_PROT_EXEC) {
            Err("the host does not offer it: no MBEC and no GMET there, or VMX or SVM here")
        } else if registers.mask(abi::HEKI_REG_CR4) & CR4_SMEP == 0 {
            Err("CR4.SMEP is not held, so that user pages would run")
        } else {
            write
        };
        let cr = if !has(abi::HEKI_PROT_CR) {
            Err("the host does not offer it")
        } else if BITS
            .iter()
            .any(|bit| registers.is_set(bit) && !registers.is_pinned(bit))
        {
            Err("the host cannot hold every bit that this CPU has set")
        } else {
            Ok(())
        };
        let kept = |prot| {
            if !has(prot) {
                Err("the host does not offer it: VMX or SVM here, or an older host")
            } else if !registers.all_kept(prot) {
                Err("the host cannot hold every register, or the CPUs do not agree")
            } else {
                Ok(())
            }
        };
        let (msr, dt) = (kept(abi::HEKI_PROT_MSR), kept(abi::HEKI_PROT_DT));
        let patch = if write.is_ok() && query.patch & VITAL == VITAL {
            query.patch
        } else {
            0
        };
        Ok(Self {
            write,
            exec,
            cr,
            msr,
            dt,
            registers,
            patch,
            learning: query.learning,
        })
    }

    /// Whether the host only learns what the protection `prot` would deny.
    fn learns(&self, prot: u32) -> bool {
        let class = match prot {
            abi::HEKI_PROT_WRITE => abi::HEKI_CLASS_WRITE,
            abi::HEKI_PROT_EXEC => abi::HEKI_CLASS_EXEC,
            _ => abi::HEKI_CLASS_REGISTER,
        };
        self.learning & 1 << class != 0
    }

    /// The protections in the order of [`require::NAMES`].
    pub(crate) fn offers(&self) -> [Offer; 5] {
        [self.write, self.exec, self.cr, self.msr, self.dt]
    }

    /// Fails if something is missing of what `required` says, or if there is nothing to seal at all.
    fn check(&self, required: u32) -> Result {
        let mut result = Ok(());
        for ((prot, name), offer) in require::NAMES.iter().zip(self.offers()) {
            let offer = offer.and(if self.learns(*prot) {
                Err(LEARNING)
            } else {
                Ok(())
            });
            if let (Err(why), true) = (offer, required & prot != 0) {
                pr_err!("require={}: {}; not sealed\n", name, why);
                result = Err(EOPNOTSUPP);
            }
        }
        if self.write.is_err() && BITS.iter().all(|bit| !self.registers.is_pinned(bit)) {
            pr_err!("the host offers no protection; not sealed\n");
            result = Err(EOPNOTSUPP);
        }
        result
    }

    /// The plan, less what the host does not confirm in `query`.
    fn confirmed(self, query: &abi::Query) -> Self {
        let confirm = |prot, offer: Offer| {
            offer.and(if query.held & prot != 0 {
                Ok(())
            } else if self.learns(prot) {
                Err(LEARNING)
            } else {
                Err("the host does not confirm it")
            })
        };
        Self {
            write: confirm(abi::HEKI_PROT_WRITE, self.write),
            exec: confirm(abi::HEKI_PROT_EXEC, self.exec),
            cr: confirm(abi::HEKI_PROT_CR, self.cr),
            msr: confirm(abi::HEKI_PROT_MSR, self.msr),
            dt: confirm(abi::HEKI_PROT_DT, self.dt),
            registers: self.registers,
            patch: self.patch & query.patch,
            learning: self.learning,
        }
    }
}

/// Writes the request: header, ranges, pins, areas.
fn build(plan: &Plan, sections: &Sections, query: &abi::Query) -> Result<KVec<u8>> {
    let mut ranges = KVec::new();
    if plan.write.is_ok() {
        for span in sections.spans.iter() {
            ranges.push(to_wire(span), GFP_KERNEL)?;
        }
    }
    let pins = pins(&plan.registers)?;
    let areas = if plan.patch != 0 {
        tables::find(&sections.spans)?
    } else {
        KVec::new()
    };
    let header = abi::Seal {
        version: abi::HEKI_ABI_VERSION,
        flags: if plan.exec.is_ok() {
            abi::HEKI_SEAL_EXEC
        } else {
            0
        },
        nr_ranges: ranges.len().try_into()?,
        nr_pins: pins.len().try_into()?,
        nr_areas: areas.len().try_into()?,
        reserved: 0,
    };

    let mut request = KVec::new();
    request.extend_from_slice(header.as_bytes(), GFP_KERNEL)?;
    request.extend_from_slice(ranges.as_bytes(), GFP_KERNEL)?;
    request.extend_from_slice(pins.as_bytes(), GFP_KERNEL)?;
    request.extend_from_slice(areas.as_bytes(), GFP_KERNEL)?;
    if header.nr_pins > query.max_pins {
        pr_err!(
            "{} pins, the host takes {}; not sealed\n",
            header.nr_pins,
            query.max_pins
        );
        return Err(E2BIG);
    }
    if header.nr_ranges > query.max_ranges || request.len() > query.max_bytes as usize {
        pr_err!(
            "{} ranges in {} bytes, the host takes {} in {}; not sealed, load fewer modules before\n",
            header.nr_ranges,
            request.len(),
            query.max_ranges,
            query.max_bytes
        );
        return Err(E2BIG);
    }
    Ok(request)
}

fn to_wire(span: &Span) -> abi::Range {
    abi::Range {
        gpa: span.start,
        len: span.bytes(),
        va: span.va,
        rights: if span.exec { abi::HEKI_EXEC } else { 0 },
        kind: span.kind,
    }
}

fn pins(registers: &Registers) -> Result<KVec<abi::Pin>> {
    let mut pins = KVec::new();
    for reg in [abi::HEKI_REG_CR0, abi::HEKI_REG_CR4] {
        let mask = registers.mask(reg);
        if mask != 0 {
            pins.push(
                abi::Pin {
                    reg,
                    index: 0,
                    mask,
                },
                GFP_KERNEL,
            )?;
        }
    }
    for (row, fate) in registers.rows() {
        let (reg, index) = (row.reg, row.index);
        if let Fate::Pinned(mask) = fate {
            pins.push(abi::Pin { reg, index, mask }, GFP_KERNEL)?;
        }
    }
    Ok(pins)
}
