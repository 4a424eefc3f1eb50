// SPDX-License-Identifier: GPL-2.0

//! All interleavings of a change of rights with what else goes on in the VM, by a model checker.
//!
//! One frame, of text in the pool, and one actor for each row of the table below. An actor takes
//! one step at a time; a step is what happens under one lock or in one instruction. The order of
//! the steps of a change is that of `SlotsLock::change` and `SlotsLock::replace`
//! (virt/kvm/heki/kvm/), that of a GRANT is that of `patch::grant`; the life-cycle is the crate's
//! own. Each step of a change, the order of a GRANT, and the lock of a save are left out once: the
//! checker then finds what goes wrong.
//!
//! | actor | steps |
//! |---|---|
//! | two vCPUs | write by a translation, fill one from the page table, or fault: judge, install |
//! | a writer inside KVM | look up the frame in `kvm->srcu`, write by the address it got |
//! | the guest that asks | SEAL, RELEASE, GRANT: a change, for GRANT then a check and another |
//! | a change | lock, begin, publish, tell the hooks, zap, flush, end, wait for readers, unlock |
//! | the VMM | delete the memslot and add it again; save the state; reset, and restore what it saved, no vCPU in the guest |

use heki_policy::lifecycle::{
    next,
    Event,
    State, //
};
use stateright::{
    Checker,
    HasDiscoveries,
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

/// What the guest asks for, and for GRANT which of its two changes it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Change {
    Seal,
    Release,
    GrantCloses,
    GrantRuns,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum At {
    Locked,
    Begun,
    Published,
    Told,
    Zapped,
    Flushed,
    Ended,
    Waited,
}

/// What a mutant lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacks {
    Nothing,
    Zap,
    Flush,
    Wait,
    LockOfSave,
    /// GRANT looks at the page before it takes the right to write.
    OrderOfGrant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Vm {
    /// What the hooks read first.
    life: Life,
    /// The published map denies writes.
    read_only: bool,
    /// It lets supervisor mode run the frame.
    runs: bool,
    /// The change that holds `kvm->slots_lock`.
    change: Option<(Change, At)>,
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
    /// The state that was saved last: its life-cycle, and whether its map denies writes and runs.
    saved: Option<(Life, bool, bool)>,
    /// A change has taken the right to write and waited; none that gives it back is published.
    closed: bool,
    /// Somebody has written the frame since it was sealed or a GRANT looked at it.
    written: bool,
    /// A write got through while the frame was closed.
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
    Ask(Change),
    GoOn,
    DeleteSlot,
    AddSlot,
    Save,
    Reset,
    Restore,
}

/// The VM in which changes lack a step, or none.
struct Protocol(Lacks);

impl Vm {
    /// What a hook says of the frame.
    fn may_write(&self) -> bool {
        self.life == Life::Open || !self.read_only
    }

    fn slots_are_free(&self) -> bool {
        !self.vmm_locks && self.change.is_none()
    }

    /// Something that may write when it likes.
    fn has_a_writer(&self) -> bool {
        self.mapped || self.cached[0] || self.cached[1] || self.writing
    }

    /// The zap and the flush that follows it, in one, as for a memslot.
    fn unmap(&mut self) {
        self.mapped = false;
        self.cached = [false; 2];
        self.changes += 1;
    }

    fn write(&mut self) {
        self.written = true;
        self.late_write |= self.closed;
    }

    /// The retry of a fault that saw a change, and else the clamp under `mmu_lock`.
    fn install(&mut self, vcpu: usize, changes: u8) {
        self.fault[vcpu] = Fault::None;
        if !self.changing && changes == self.changes && self.slot {
            self.mapped = self.may_write();
        }
    }

    /// What a request is served for: `hypercall::check_state`, `Grant::check`.
    fn asks(&mut self, change: Change, lacks: Lacks) -> Option<()> {
        if !self.slots_are_free() || self.changes >= MAX_CHANGES {
            return None;
        }
        match change {
            Change::Seal => self.life.after(Event::Seal)?,
            Change::Release if self.read_only => self.life.after(Event::Change)?,
            Change::GrantCloses if !self.read_only => self.life.after(Event::Change)?,
            _ => return None,
        };
        if change == Change::GrantCloses && lacks == Lacks::OrderOfGrant {
            self.written = false;
        }
        self.change = Some((change, At::Locked));
        Some(())
    }

    /// The new map. What is sealed counts as looked at: it is trusted as it is.
    fn publish(&mut self, change: Change) {
        self.read_only = change != Change::Release;
        self.runs = matches!(change, Change::Seal | Change::GrantRuns);
        self.closed &= change != Change::Release;
    }

    /// The right to write is gone. GRANT looks at the page, and goes on with its second change.
    fn close(&mut self, change: Change, lacks: Lacks) -> Option<(Change, At)> {
        self.closed = self.read_only;
        match change {
            Change::Seal => self.written = false,
            Change::GrantCloses if lacks != Lacks::OrderOfGrant => self.written = false,
            _ => {}
        }
        (change == Change::GrantCloses).then_some((Change::GrantRuns, At::Locked))
    }

    fn go_on(&mut self, lacks: Lacks) -> Option<()> {
        let (change, at) = self.change?;
        let next = match at {
            At::Locked => {
                self.changing = true;
                At::Begun
            }
            At::Begun => {
                self.publish(change);
                At::Published
            }
            At::Published => {
                if change == Change::Seal {
                    self.life = self.life.after(Event::Seal)?;
                }
                At::Told
            }
            At::Told => {
                self.mapped &= lacks == Lacks::Zap;
                At::Zapped
            }
            At::Zapped => {
                if lacks != Lacks::Flush {
                    self.cached = [false; 2];
                }
                At::Flushed
            }
            At::Flushed => {
                self.changing = false;
                self.changes += 1;
                At::Ended
            }
            At::Ended if lacks == Lacks::Wait || !self.writing => At::Waited,
            At::Ended => return None,
            At::Waited => {
                self.change = self.close(change, lacks);
                return Some(());
            }
        };
        self.change = Some((change, next));
        Some(())
    }

    /// Every vcpu->mutex is with the VMM: no vCPU is in a fault.
    fn vcpus_are_held(&self) -> bool {
        self.slots_are_free() && self.fault == [Fault::None; 2]
    }

    fn reset(&mut self) -> Option<()> {
        self.life = self.life.after(Event::Reset)?;
        self.read_only = false;
        self.runs = false;
        self.closed = false;
        self.unmap();
        Some(())
    }

    /// As a SEAL with the lock and all vCPUs held, which is why it is one step. Memory is as it was
    /// when the state was saved: the VMM carries both.
    fn restore(&mut self) -> Option<()> {
        let (Life::Sealed, read_only, runs) = self.saved? else {
            return None;
        };
        self.life = self.life.after(Event::Seal)?;
        self.read_only = read_only;
        self.runs = runs;
        self.closed = read_only;
        self.written &= !read_only;
        self.unmap();
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
            runs: false,
            change: None,
            vmm_locks: false,
            changes: 0,
            changing: false,
            slot: true,
            mapped: false,
            cached: [false; 2],
            fault: [Fault::None; 2],
            writing: false,
            saved: None,
            closed: false,
            written: false,
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
        actions.extend([Step::LookUp, Step::WriteInside, Step::GoOn]);
        actions.extend([Change::Seal, Change::Release, Change::GrantCloses].map(Step::Ask));
        actions.extend([Step::DeleteSlot, Step::AddSlot, Step::Save]);
        actions.extend([Step::Reset, Step::Restore]);
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
            Step::Ask(change) => vm.asks(change, self.0)?,
            Step::GoOn => vm.go_on(self.0)?,
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
                vm.saved = Some((vm.life, vm.read_only, vm.runs));
            }
            Step::Reset if vm.vcpus_are_held() => vm.reset()?,
            Step::Restore if vm.vcpus_are_held() && !vm.writing => vm.restore()?,
            _ => return None,
        }
        Some(vm)
    }

    fn within_boundary(&self, vm: &Vm) -> bool {
        vm.changes <= MAX_CHANGES
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no write after the right is gone", |_, vm: &Vm| {
                !vm.late_write
            }),
            Property::always("no right is left over", |_, vm: &Vm| {
                !vm.closed || !vm.has_a_writer()
            }),
            Property::always("what runs is not written", |_, vm: &Vm| {
                !(vm.runs && vm.slots_are_free() && vm.life == Life::Sealed) || vm.closed
            }),
            Property::always("what runs was looked at", |_, vm: &Vm| {
                !(vm.runs && vm.closed) || !vm.written
            }),
            Property::always("what is saved is whole", |_, vm: &Vm| {
                vm.saved.is_none_or(|(life, read_only, runs)| {
                    read_only == runs && (life == Life::Sealed || !runs)
                })
            }),
            Property::sometimes("a seal returns", |_, vm: &Vm| vm.closed && vm.runs),
            Property::sometimes("a slot comes back under a seal", |_, vm: &Vm| {
                vm.closed && vm.slot && vm.changes > 1
            }),
            Property::sometimes("a vCPU writes before", |_, vm: &Vm| {
                vm.cached[1] && vm.life == Life::Open
            }),
            Property::sometimes("a second seal", |_, vm: &Vm| {
                vm.change == Some((Change::Seal, At::Waited)) && vm.changes > 2
            }),
            Property::sometimes("a vCPU writes what was released", |_, vm: &Vm| {
                vm.cached[0] && vm.life == Life::Sealed && !vm.runs
            }),
            Property::sometimes("a page runs again", |_, vm: &Vm| {
                vm.change == Some((Change::GrantRuns, At::Waited)) && vm.closed
            }),
            Property::sometimes("a saved seal is restored", |_, vm: &Vm| {
                vm.saved == Some((Life::Sealed, true, true)) && vm.closed && vm.changes == 3
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
    let checker = Protocol(lacks)
        .checker()
        .finish_when(HasDiscoveries::AnyOf([property].into()))
        .spawn_bfs()
        .join();
    checker.discovery(property).is_some()
}

#[test]
fn each_step_of_the_seal_is_needed() {
    for lacks in [Lacks::Zap, Lacks::Flush, Lacks::Wait] {
        assert!(
            breaks(lacks, "no write after the right is gone"),
            "nothing gets through without {lacks:?}"
        );
    }
}

#[test]
fn a_grant_looks_when_nobody_writes() {
    assert!(breaks(Lacks::OrderOfGrant, "what runs was looked at"));
}

#[test]
fn a_save_needs_the_lock() {
    assert!(breaks(Lacks::LockOfSave, "what is saved is whole"));
}
