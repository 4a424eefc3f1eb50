// SPDX-License-Identifier: GPL-2.0

//! All interleavings of a seal with what else goes on in the VM, by a model checker.
//!
//! One frame, and one actor for each row of the table below. An actor takes one step at a time; a
//! step is what happens under one lock or in one instruction. The order of the sealer's steps is
//! that of `SlotsLock::change` and `SlotsLock::replace` (virt/kvm/heki/kvm/); the life-cycle is the
//! crate's own. Each step of the sealer, and the lock of a save, is left out once: the checker then
//! finds what goes wrong.
//!
//! | actor | steps |
//! |---|---|
//! | two vCPUs | write by a translation, fill one from the page table, or fault: judge, install |
//! | a writer inside KVM | look up the frame in `kvm->srcu`, write by the address it got |
//! | the sealer | lock, begin, publish, tell the hooks, zap, flush, end, wait for readers, unlock |
//! | the VMM | delete the memslot and add it again; save the state; reset, no vCPU in the guest |

use heki_policy::lifecycle::{
    next,
    Event,
    State, //
};
use stateright::{
    Checker,
    Model,
    Property, //
};

/// What a vCPU is at: in guest mode, or in KVM with what it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    None,
    /// Judged by the rights of that moment; the number of changes that it saw.
    Judged {
        changes: u8,
    },
}

/// How far the holder of `kvm->slots_lock` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Seal {
    Unlocked,
    Locked,
    Begun,
    Published,
    Told,
    Zapped,
    Flushed,
    Ended,
    Waited,
    Done,
}

/// What a mutant lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacks {
    Nothing,
    Zap,
    Flush,
    Wait,
    LockOfSave,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Vm {
    /// What the hooks read first.
    life: Life,
    /// The published map denies writes.
    read_only: bool,
    seal: Seal,
    /// `kvm->slots_lock` is with the VMM.
    vmm_locks: bool,
    /// Changes of rights or slots that have ended; one is under way.
    changes: u8,
    changing: bool,
    slot: bool,
    /// The page table lets the guest write.
    mapped: bool,
    /// A translation of each vCPU does.
    cached: [bool; 2],
    fault: [Fault; 2],
    /// KVM's writer is in `kvm->srcu` with an address that it may write.
    writing: bool,
    /// The state that was saved last: its life-cycle, and whether its map denies writes.
    saved: Option<(Life, bool)>,
    /// A write got through after the sealing hypercall had returned.
    late_write: bool,
}

/// [`State`], which has no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    Open,
    Sealed,
}

impl Life {
    fn after(self, event: Event) -> Option<Self> {
        let state = match self {
            Self::Open => State::Open,
            Self::Sealed => State::Sealed,
        };
        match next(state, event).ok()? {
            State::Off => None,
            State::Open => Some(Self::Open),
            State::Sealed => Some(Self::Sealed),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    WriteByTranslation(usize),
    FillTranslation(usize),
    Judge(usize),
    Install(usize),
    LookUp,
    WriteInside,
    Sealer,
    DeleteSlot,
    AddSlot,
    Save,
    Reset,
}

/// The VM with a sealer that lacks a step, or none.
struct Protocol(Lacks);

impl Vm {
    /// The hypercall has returned to the guest, and no reset came since.
    fn sealed_for_good(&self) -> bool {
        self.seal == Seal::Done && self.life == Life::Sealed
    }

    /// What a hook says of the frame.
    fn may_write(&self) -> bool {
        self.life == Life::Open || !self.read_only
    }

    fn slots_are_free(&self) -> bool {
        !self.vmm_locks && matches!(self.seal, Seal::Unlocked | Seal::Done)
    }

    /// `kvm_mmu_zap` and the flush that follows it, in one, as for a memslot.
    fn unmap(&mut self) {
        self.mapped = false;
        self.cached = [false; 2];
        self.changes += 1;
    }

    fn write(&mut self) {
        self.late_write |= self.sealed_for_good();
    }

    /// The retry of a fault that saw a change, and else the clamp under `mmu_lock`.
    fn install(&mut self, vcpu: usize, changes: u8) {
        self.fault[vcpu] = Fault::None;
        if !self.changing && changes == self.changes && self.slot {
            self.mapped = self.may_write();
        }
    }

    fn seal_step(&mut self, lacks: Lacks) -> Option<()> {
        self.seal = match self.seal {
            Seal::Unlocked if !self.vmm_locks => Seal::Locked,
            Seal::Locked => {
                self.life.after(Event::Seal)?;
                self.changing = true;
                Seal::Begun
            }
            Seal::Begun => {
                self.read_only = true;
                Seal::Published
            }
            Seal::Published => {
                self.life = self.life.after(Event::Seal)?;
                Seal::Told
            }
            Seal::Told => {
                self.mapped &= lacks == Lacks::Zap;
                Seal::Zapped
            }
            Seal::Zapped => {
                if lacks != Lacks::Flush {
                    self.cached = [false; 2];
                }
                Seal::Flushed
            }
            Seal::Flushed => {
                self.changing = false;
                self.changes += 1;
                Seal::Ended
            }
            Seal::Ended if lacks == Lacks::Wait || !self.writing => Seal::Waited,
            Seal::Waited => Seal::Done,
            _ => return None,
        };
        Some(())
    }
}

/// Changes of slots and resets are few, so that the states are too.
const MAX_CHANGES: u8 = 4;

impl Model for Protocol {
    type State = Vm;
    type Action = Step;

    fn init_states(&self) -> Vec<Vm> {
        vec![Vm {
            life: Life::Open,
            read_only: false,
            seal: Seal::Unlocked,
            vmm_locks: false,
            changes: 0,
            changing: false,
            slot: true,
            mapped: false,
            cached: [false; 2],
            fault: [Fault::None; 2],
            writing: false,
            saved: None,
            late_write: false,
        }]
    }

    fn actions(&self, _: &Vm, actions: &mut Vec<Step>) {
        for vcpu in 0..2 {
            actions.extend([
                Step::WriteByTranslation(vcpu),
                Step::FillTranslation(vcpu),
                Step::Judge(vcpu),
                Step::Install(vcpu),
            ]);
        }
        actions.extend([Step::LookUp, Step::WriteInside, Step::Sealer]);
        actions.extend([Step::DeleteSlot, Step::AddSlot, Step::Save, Step::Reset]);
    }

    fn next_state(&self, last: &Vm, step: Step) -> Option<Vm> {
        let mut vm = last.clone();
        match step {
            Step::WriteByTranslation(vcpu) if vm.cached[vcpu] && vm.fault[vcpu] == Fault::None => {
                vm.write()
            }
            Step::FillTranslation(vcpu) if vm.mapped && vm.fault[vcpu] == Fault::None => {
                vm.cached[vcpu] = true
            }
            Step::Judge(vcpu) if vm.fault[vcpu] == Fault::None && vm.may_write() => {
                vm.fault[vcpu] = Fault::Judged {
                    changes: vm.changes,
                };
            }
            Step::Install(vcpu) => match vm.fault[vcpu] {
                Fault::Judged { changes } => vm.install(vcpu, changes),
                Fault::None => return None,
            },
            Step::LookUp if !vm.writing && vm.slot && vm.may_write() => vm.writing = true,
            Step::WriteInside if vm.writing => {
                vm.writing = false;
                vm.write();
            }
            Step::Sealer => vm.seal_step(self.0)?,
            Step::DeleteSlot if vm.slot && vm.slots_are_free() && vm.changes < MAX_CHANGES => {
                vm.vmm_locks = true;
                vm.slot = false;
                vm.unmap();
            }
            Step::AddSlot if !vm.slot => {
                vm.slot = true;
                vm.vmm_locks = false;
            }
            Step::Save if vm.slots_are_free() || self.0 == Lacks::LockOfSave => {
                vm.saved = Some((vm.life, vm.read_only));
            }
            // Every vcpu->mutex is held, so no vCPU is in a fault, nor keeps a translation.
            Step::Reset
                if vm.seal == Seal::Done && vm.slots_are_free() && vm.fault == [Fault::None; 2] =>
            {
                vm.life = vm.life.after(Event::Reset)?;
                vm.read_only = false;
                vm.seal = Seal::Unlocked;
                vm.unmap();
            }
            _ => return None,
        }
        Some(vm)
    }

    fn within_boundary(&self, vm: &Vm) -> bool {
        vm.changes <= MAX_CHANGES
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no write after the seal returned", |_, vm: &Vm| {
                !vm.late_write
            }),
            Property::always("no right is left over", |_, vm: &Vm| {
                !vm.sealed_for_good() || !(vm.mapped || vm.cached[0] || vm.cached[1] || vm.writing)
            }),
            Property::always("what is saved is whole", |_, vm: &Vm| {
                vm.saved
                    .is_none_or(|(life, read_only)| read_only == (life == Life::Sealed))
            }),
            Property::sometimes("a seal returns", |_, vm: &Vm| vm.sealed_for_good()),
            Property::sometimes("a slot comes back under a seal", |_, vm: &Vm| {
                vm.sealed_for_good() && vm.slot && vm.changes > 1
            }),
            Property::sometimes("a vCPU writes before", |_, vm: &Vm| {
                vm.cached[1] && vm.life == Life::Open
            }),
            Property::sometimes("a second seal", |_, vm: &Vm| {
                vm.sealed_for_good() && vm.changes > 2
            }),
        ]
    }
}

#[test]
fn no_interleaving_leaves_a_right() {
    Protocol(Lacks::Nothing)
        .checker()
        .spawn_bfs()
        .join()
        .assert_properties();
}

fn breaks(lacks: Lacks, property: &'static str) -> bool {
    let checker = Protocol(lacks).checker().spawn_bfs().join();
    checker.discovery(property).is_some()
}

#[test]
fn each_step_of_the_seal_is_needed() {
    for lacks in [Lacks::Zap, Lacks::Flush, Lacks::Wait] {
        assert!(
            breaks(lacks, "no write after the seal returned"),
            "nothing gets through without {lacks:?}"
        );
    }
}

#[test]
fn a_save_needs_the_lock() {
    assert!(breaks(Lacks::LockOfSave, "what is saved is whole"));
}
