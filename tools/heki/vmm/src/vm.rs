// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The machine: what KVM is asked for and in which order, the threads, and the reset.
//!
//! The main thread owns [`Vm`] and waits for signals, input and reports; each vCPU has a thread
//! (`vcpu.rs`) while the guest runs. Both share [`Shared`]. Locks: the devices', the disk's and the
//! report's, never two at once.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{
    AtomicBool,
    Ordering, //
};
use std::sync::{
    Arc,
    Mutex,
    MutexGuard,
    PoisonError,
    TryLockError, //
};
use std::thread::{
    self,
    JoinHandle, //
};

use kvm_bindings::{
    kvm_clock_data,
    kvm_enable_cap,
    kvm_irqchip,
    kvm_pit_config,
    kvm_pit_state2,
    KVM_CAP_X86_TRIPLE_FAULT_EVENT,
    KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_SPEAKER_DUMMY, //
};
use kvm_ioctls::{
    Cap,
    Kvm,
    VmFd, //
};
use nix::poll::{
    poll,
    PollFd,
    PollFlags,
    PollTimeout, //
};
use nix::sys::eventfd::{
    EfdFlags,
    EventFd, //
};
use nix::sys::signal::Signal;
use serde::{
    Deserialize,
    Serialize, //
};
use vmm_sys_util::eventfd::EventFd as IrqFd;
use vmm_sys_util::signal::Killable;

use crate::acpi;
use crate::args::Args;
use crate::boot::Boot;
use crate::console::{
    Delay,
    Input,
    Output,
    Signals, //
};
use crate::control::{
    Answer,
    Command,
    Control,
    Status, //
};
use crate::cpuid::{
    self,
    Topology, //
};
use crate::devices::{
    Devices,
    SERIAL_IRQ, //
};
use crate::disk::Disk;
use crate::exit::{
    End,
    Error, //
};
use crate::heki::Heki;
use crate::memory::{
    self,
    Memory,
    KVM_IDENTITY_MAP,
    KVM_TSS, //
};
use crate::mmio::{
    self,
    Transport, //
};
use crate::monitor::Monitor;
use crate::policy::Policy;
use crate::profile::Profile;
use crate::snapshot::{
    Machine,
    Manifest,
    Snapshot, //
};
use crate::vcpu::{
    self,
    Report,
    Vcpu, //
};
use crate::view::View;

/// How often the end of a thread is looked for, in milliseconds.
const STOP_INTERVAL: u8 = 5;
/// How often the last output is tried again, in milliseconds.
const FLUSH_INTERVAL: u8 = 10;

/// A virtual machine, running or not.
pub(crate) struct Vm {
    kvm: Kvm,
    fd: VmFd,
    heki: Option<Arc<Heki>>,
    boot: Boot,
    vcpus: Vec<Vcpu>,
    chips: Option<Box<Chips>>,
    input: Input,
    delay: Delay,
    control: Option<Control>,
    manifest: Manifest,
    paused: bool,
    shared: Arc<Shared>,
}

/// What the main thread and the vCPU threads share.
pub(crate) struct Shared {
    /// Before `memory`, for it holds a file descriptor of KVM.
    disk: Option<Mutex<Transport>>,
    /// Lives at least as long as any vCPU that runs in it.
    memory: Memory,
    devices: Mutex<Devices>,
    stop: AtomicBool,
    report: Mutex<Option<Report>>,
    /// Serves the exits of a guest with a policy.
    monitor: Option<Monitor>,
    /// Wakes the main thread.
    wake: Arc<EventFd>,
}

/// State of the devices inside KVM.
#[derive(Serialize, Deserialize)]
pub(crate) struct Chips {
    irq: [kvm_irqchip; 3],
    pit: kvm_pit_state2,
}

impl Vm {
    /// Builds the machine and loads the kernel.
    pub(crate) fn new(args: &Args) -> Result<Self, Error> {
        let boot = Boot::open(args)?;
        let profile = match &args.vmlinux {
            Some(vmlinux) => Some(Profile::open(vmlinux, &args.lists())?),
            None => None,
        };
        let mut monitor = match &args.heki_policy {
            Some(policy) => Some(Monitor::open(policy, args.heki_events.as_deref())?),
            None => args.devices_follow().then(Monitor::default),
        };
        if let (true, Some(monitor)) = (args.devices_follow(), &mut monitor) {
            monitor.follow_rights();
        }
        let policy = monitor.as_ref().map(Monitor::policy);
        let learning = policy.map(Policy::learning).unwrap_or_default();
        if !learning.is_empty() {
            eprintln!(
                "heki-vmm: LEARNING: the guest is not protected: denials are reported and allowed: {}",
                learning.join(", ")
            );
        }
        let learns_writes = policy.is_some_and(Policy::learns_writes);
        let disk = args.disk.as_ref().map(Disk::open).transpose()?;
        let kvm = open_kvm()?;
        check_cpus(&kvm, args.cpus)?;
        // Opted in or not, a guest with a disk has the same kind of memory.
        let memory = memory::allocate(args.memory, args.disk.is_some())?;
        let fd = create_vm(&kvm)?;
        let heki = match args.heki {
            true => Some(Arc::new(Heki::enable(&fd, profile.as_ref(), policy)?)),
            false => None,
        };
        memory::register(&fd, &memory)?;
        let restorable = args.may_reboot() || monitor.as_ref().is_some_and(Monitor::keeps_kernels);
        let vcpus = create_vcpus(&kvm, &fd, args.cpus, restorable)?;
        let chips = match restorable {
            true => Some(Box::new(Chips::save(&fd)?)),
            false => None,
        };
        let disk = match disk {
            Some(disk) => Some(wire_disk(&fd, disk, &memory, heki.clone(), learns_writes)?),
            None => None,
        };
        let output = Output::stdout().map_err(Error::os("open standard output"))?;
        let delay = output.delay();
        let mut vm = Vm {
            shared: Arc::new(Shared::new(&fd, memory, output, disk, monitor)?),
            fd,
            heki,
            boot,
            vcpus,
            chips,
            input: Input::open(),
            delay,
            control: None,
            manifest: Manifest::new(args.memory, args.cpus, args.heki, args.disk.is_some()),
            paused: false,
            kvm,
        };
        match &args.restore {
            Some(directory) => vm.restore(directory)?,
            None => vm.load(None)?,
        }
        if let Some(path) = &args.control {
            vm.control = Some(Control::open(path)?);
        }
        Ok(vm)
    }

    /// Loads our own kernel, or another one.
    fn load(&mut self, kernel: Option<Vec<u8>>) -> Result<(), Error> {
        let entry = self.boot.load(&self.shared.memory, kernel)?;
        self.vcpus.iter().try_for_each(|vcpu| vcpu.prepare(entry))
    }

    /// Runs the guest until something ends it.
    pub(crate) fn run(&mut self, signals: &Signals) -> Result<End, Error> {
        vcpu::prepare_kicks()?;
        loop {
            let command = match self.run_to_command(signals)? {
                Woken::End(end) => return Ok(end),
                Woken::Command(command) => command,
            };
            // The guest may have ended while it was stopped.
            if let Some(report) = self.shared.take_report() {
                self.answer(&Answer::failed("the guest has ended"));
                return report;
            }
            self.perform(command)?;
        }
    }

    /// Runs the guest, unless it is paused, until something ends that or wants it stopped.
    fn run_to_command(&mut self, signals: &Signals) -> Result<Woken, Error> {
        self.shared.clear();
        let threads = match self.paused {
            true => Vec::new(),
            false => self.start()?,
        };
        let woken = self.wait(signals);
        if matches!(woken, Ok(Woken::End(End::Signal(_)))) {
            // No waiting for a thread that may be stuck on the output: the process is about to end,
            // and takes it along.
            let _ = self.try_flush();
            return woken;
        }
        if let Some(signal) = self.stop(threads, signals)? {
            return Ok(Woken::End(End::Signal(signal)));
        }
        self.try_flush()?;
        match woken {
            // A vCPU that was stopped for it may have found an error.
            Ok(Woken::End(end)) => self.shared.settle(end).map(Woken::End),
            woken => woken,
        }
    }

    /// Does what the control socket asks, of a stopped guest unless it is its status. What leaves
    /// the guest as it was is no error of the run.
    fn perform(&mut self, command: Command) -> Result<(), Error> {
        let answer = match command {
            Command::Status {} => match self.status() {
                Ok(status) => Answer::status(status),
                Err(error) => Answer::failed(error),
            },
            Command::Pause {} => {
                self.paused = true;
                Answer::done()
            }
            Command::Resume {} => {
                self.paused = false;
                Answer::done()
            }
            Command::Reset {} => {
                self.reset()?;
                Answer::done()
            }
            Command::Snapshot { directory } => match self.save(&directory) {
                Ok(()) => Answer::done(),
                Err(error) => Answer::failed(error),
            },
        };
        self.answer(&answer);
        Ok(())
    }

    fn status(&self) -> Result<Status, Error> {
        let heki = self.heki.as_ref();
        Ok(Status {
            state: if self.paused { "paused" } else { "running" },
            cpus: self.manifest.cpus,
            memory: self.manifest.memory,
            heki: self.manifest.heki,
            sealed: heki.map(|heki| heki.is_sealed()).transpose()?,
        })
    }

    fn answer(&mut self, answer: &Answer) {
        if let Some(control) = &mut self.control {
            control.answer(answer);
        }
    }

    /// Writes all of the machine to a new directory. Only when the guest is not running.
    fn save(&self, directory: &Path) -> Result<(), Error> {
        Snapshot::create(directory, |snapshot| self.save_to(snapshot))
    }

    fn save_to(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let vcpus = self.vcpus.iter().map(|vcpu| vcpu.save(&self.kvm));
        let mut clock = self.fd.get_clock().map_err(Error::kvm("read the clock"))?;
        // The guest's time stands still until it is restored.
        clock.flags = 0;
        let machine = Machine {
            vcpus: vcpus.collect::<Result<_, _>>()?,
            chips: Chips::save(&self.fd)?,
            clock,
            devices: self.shared.devices().save(),
            disk: match self.shared.disk() {
                Some(disk) => Some(disk.save().map_err(Error::os("write the guest's disk"))?),
                None => None,
            },
        };
        let heki = match &self.heki {
            Some(heki) => Some(heki.save()?),
            None => None,
        };
        let memory = &self.shared.memory;
        snapshot.write(&self.manifest, memory, &machine, heki.as_deref())
    }

    /// Makes a machine that has not run the one of a snapshot.
    fn restore(&mut self, directory: &Path) -> Result<(), Error> {
        let snapshot = Snapshot::open(directory, &self.manifest)?;
        let machine = snapshot.read_machine()?;
        if machine.vcpus.len() != self.vcpus.len() {
            return Err(snapshot.error("it has other vCPUs than its manifest says"));
        }
        match (self.shared.disk(), &machine.disk) {
            (Some(mut disk), Some(image)) => {
                disk.load(image).map_err(|reason| snapshot.error(reason))?;
            }
            (None, None) => {}
            _ => return Err(snapshot.error("it has another disk than its manifest says")),
        }
        for (vcpu, image) in self.vcpus.iter_mut().zip(&machine.vcpus) {
            if let Some(lack) = vcpu.become_like(&self.kvm, image)? {
                return Err(snapshot.error(format!("this host does not offer its guest {lack}")));
            }
        }
        snapshot.read_memory(&self.shared.memory)?;
        machine.chips.restore(&self.fd)?;
        // They were read one after the other, and none may go back.
        let tsc = machine.vcpus.iter().map(|image| image.tsc).max();
        for (vcpu, image) in self.vcpus.iter().zip(&machine.vcpus) {
            vcpu.load(image, tsc.unwrap_or_default())?;
        }
        self.shared
            .devices()
            .load(&machine.devices)
            .map_err(|error| snapshot.error(error))?;
        self.fd
            .set_clock(&machine.clock)
            .map_err(Error::kvm("set the clock"))?;
        if let Some(heki) = &self.heki {
            heki.restore(&snapshot.read_heki()?)?;
        }
        match self.shared.disk() {
            Some(mut disk) => disk.follow(),
            None => Ok(()),
        }
    }

    /// Back to the state after power-on, with the kernel loaded anew: ours, unless the guest has
    /// just started another one. Only when the guest is not running.
    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        let kernel = self.shared.monitor().and_then(Monitor::take_started);
        // First, for what was sealed may be neither cleared nor loaded over.
        if let Some(heki) = &self.heki {
            heki.reset()?;
        }
        if let Some(mut disk) = self.shared.disk() {
            disk.reset()?;
        }
        memory::clear(&self.shared.memory)?;
        self.shared
            .devices()
            .reset()
            .map_err(Error::os("reset the devices"))?;
        self.vcpus.iter().try_for_each(Vcpu::restore)?;
        if let Some(chips) = &self.chips {
            chips.restore(&self.fd)?;
        }
        let clock = kvm_clock_data::default();
        self.fd
            .set_clock(&clock)
            .map_err(Error::kvm("reset the clock"))?;
        self.load(kernel)
    }

    /// Gives each vCPU a thread.
    fn start(&mut self) -> Result<Vec<JoinHandle<Vcpu>>, Error> {
        let mut threads = Vec::new();
        for (index, mut vcpu) in self.vcpus.drain(..).enumerate() {
            let shared = self.shared.clone();
            let body = move || {
                let _guard = ReportPanic(&shared);
                vcpu.run(&shared);
                vcpu
            };
            let thread = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(body);
            threads.push(thread.map_err(Error::os("start a thread"))?);
        }
        Ok(threads)
    }

    /// Takes the vCPUs out of the guest and their threads home, unless a signal comes first: a thread
    /// may be stuck on the output.
    fn stop(
        &mut self,
        threads: Vec<JoinHandle<Vcpu>>,
        signals: &Signals,
    ) -> Result<Option<Signal>, Error> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in &threads {
            // Fails only for a thread that has ended by itself.
            let _ = thread.kill(vcpu::kick_signal());
        }
        while !threads.iter().all(JoinHandle::is_finished) {
            let signal = signal_within(signals, STOP_INTERVAL);
            if signal.is_some() {
                return Ok(signal);
            }
        }
        for thread in threads {
            self.vcpus.push(thread.join().map_err(|_| Error::Panic)?);
        }
        Ok(None)
    }

    /// The main thread's life while the guest runs.
    fn wait(&mut self, signals: &Signals) -> Result<Woken, Error> {
        loop {
            let ready = self.poll(signals).map_err(Error::os("wait for events"))?;
            if let Some(signal) = ready.signal.then(|| signals.take()).flatten() {
                return Ok(Woken::End(End::Signal(signal)));
            }
            if ready.wake {
                self.shared.rest();
                if let Some(report) = self.shared.take_report() {
                    return report.map(Woken::End);
                }
            }
            if ready.control {
                match self.control.as_mut().and_then(Control::take) {
                    Some(status @ Command::Status {}) => self.perform(status)?,
                    Some(command) => return Ok(Woken::Command(command)),
                    None => {}
                }
            }
            if ready.delay {
                self.delay.rest();
                self.try_flush()?;
            }
            if ready.input {
                self.pass_input();
            }
        }
    }

    fn poll(&self, signals: &Signals) -> nix::Result<Ready> {
        let wanted = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![
            wanted(signals.as_fd()),
            wanted(self.shared.wake.as_fd()),
            wanted(self.delay.as_fd()),
        ];
        let mut timeout = PollTimeout::NONE;
        let control_at = fds.len();
        if let Some(control) = &self.control {
            fds.push(wanted(control.fd()));
            if control.has_line() {
                timeout = PollTimeout::ZERO;
            }
        }
        let input_at = fds.len();
        // Without room, we are woken when there is some.
        if self
            .devices_now()
            .is_some_and(|mut devices| devices.input_room() > 0)
        {
            fds.extend(self.input.fd().map(wanted));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error),
        }
        let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        Ok(Ready {
            signal: ready(0),
            wake: ready(1),
            delay: ready(2),
            control: timeout == PollTimeout::ZERO || (control_at < input_at && ready(control_at)),
            input: ready(input_at),
        })
    }

    /// Writes what output there is, as far as that has not to wait. Whether nothing is left to wait
    /// for.
    fn try_flush(&self) -> Result<bool, Error> {
        match self.devices_now() {
            Some(mut devices) => devices
                .try_flush()
                .map_err(Error::os("write the guest's output")),
            None => Ok(true),
        }
    }

    /// At the end of it all: waits until the guest's last output is written, or for a signal.
    pub(crate) fn finish(&self, ended: Report, signals: &Signals) -> Report {
        if matches!(ended, Ok(End::Signal(_))) {
            return ended;
        }
        loop {
            match self.try_flush() {
                Ok(true) => return ended,
                Ok(false) => {}
                Err(error) => return ended.and(Err(error)),
            }
            if let Some(signal) = signal_within(signals, FLUSH_INTERVAL) {
                return ended.and(Ok(End::Signal(signal)));
            }
        }
    }

    fn pass_input(&mut self) {
        let mut buffer = [0; 64];
        // If a vCPU has taken them since, the input is still there at the next wake-up.
        let Some(mut devices) = self.shared.try_devices() else {
            return;
        };
        let room = devices.input_room();
        if let Some(free @ [_, ..]) = buffer.get_mut(..room.min(64)) {
            devices.input(self.input.read(free));
        }
    }

    /// The devices, unless a vCPU holds them: it may be stuck on the output, and this thread must
    /// go on hearing signals. Then we are woken for another try.
    fn devices_now(&self) -> Option<MutexGuard<'_, Devices>> {
        let devices = self.shared.try_devices();
        if devices.is_none() {
            // Fails only for a time that is out of range.
            let _ = self.delay.start();
        }
        devices
    }
}

/// The signal that comes within this time, if any.
fn signal_within(signals: &Signals, milliseconds: u8) -> Option<Signal> {
    let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
    let signalled = poll(&mut fds, milliseconds) == Ok(1);
    signalled.then(|| signals.take()).flatten()
}

/// What the main thread was woken for.
struct Ready {
    signal: bool,
    wake: bool,
    delay: bool,
    control: bool,
    input: bool,
}

/// Why the main thread no longer waits.
enum Woken {
    /// The run is over.
    End(End),
    /// This is to be done while the guest is stopped.
    Command(Command),
}

impl Shared {
    fn new(
        vm: &VmFd,
        memory: Memory,
        output: Output,
        disk: Option<Transport>,
        monitor: Option<Monitor>,
    ) -> Result<Self, Error> {
        let irq = wire_interrupt(vm, SERIAL_IRQ)?;
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC);
        let wake = Arc::new(wake.map_err(Error::os("create an event"))?);
        Ok(Shared {
            memory,
            devices: Mutex::new(Devices::new(irq, wake.clone(), output)),
            disk: disk.map(Mutex::new),
            stop: AtomicBool::new(false),
            report: Mutex::new(None),
            monitor,
            wake,
        })
    }

    /// The devices. A thread that panicked with them leaves them usable: nothing in them spans two
    /// calls.
    pub(crate) fn devices(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_devices(&self) -> Option<MutexGuard<'_, Devices>> {
        match self.devices.try_lock() {
            Ok(devices) => Some(devices),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The disk, if there is one. Like the devices, a panic leaves it usable.
    pub(crate) fn disk(&self) -> Option<MutexGuard<'_, Transport>> {
        let disk = self.disk.as_ref()?;
        Some(disk.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The guest's memory, as KVM has it.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Who serves the exits of a guest with a policy.
    pub(crate) fn monitor(&self) -> Option<&Monitor> {
        self.monitor.as_ref()
    }

    /// Whether the vCPUs shall leave the guest.
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Tells the main thread how the run ended.
    pub(crate) fn report(&self, report: Report) {
        let mut told = self.locked_report();
        *told = Some(match told.take() {
            Some(first) => graver(first, report),
            None => report,
        });
        drop(told);
        // Fails only when the count is full, and then the main thread is awake.
        let _ = self.wake.write(1);
    }

    fn take_report(&self) -> Option<Report> {
        self.locked_report().take()
    }

    /// How the run ended, of which `end` was told first. To be called when all vCPUs have stopped.
    fn settle(&self, end: End) -> Report {
        match self.take_report() {
            Some(later) => graver(Ok(end), later),
            None => Ok(end),
        }
    }

    fn locked_report(&self) -> MutexGuard<'_, Option<Report>> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a run: forgets the last one.
    fn clear(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.take_report();
    }

    /// After a wake-up: sleeps again at the next wait.
    fn rest(&self) {
        // Fails only when nobody has woken us.
        let _ = self.wake.read();
    }
}

/// The report that counts: the first, but an error before an end, since a guest may go on after a
/// reset.
fn graver(first: Report, later: Report) -> Report {
    match (&first, &later) {
        (Ok(_), Err(_)) => later,
        _ => first,
    }
}

/// Reports a thread that panics, which would otherwise leave the guest silently without one vCPU.
struct ReportPanic<'a>(&'a Shared);

impl Drop for ReportPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.report(Err(Error::Panic));
        }
    }
}

impl Chips {
    fn save(vm: &VmFd) -> Result<Self, Error> {
        let mut irq = [kvm_irqchip::default(); 3];
        for (chip_id, chip) in (0..).zip(&mut irq) {
            chip.chip_id = chip_id;
            vm.get_irqchip(chip)
                .map_err(Error::kvm("read an interrupt controller"))?;
        }
        let pit = vm.get_pit2().map_err(Error::kvm("read the timer"))?;
        Ok(Chips { irq, pit })
    }

    fn restore(&self, vm: &VmFd) -> Result<(), Error> {
        for chip in &self.irq {
            vm.set_irqchip(chip)
                .map_err(Error::kvm("reset an interrupt controller"))?;
        }
        vm.set_pit2(&self.pit)
            .map_err(Error::kvm("reset the timer"))
    }
}

fn wire_interrupt(vm: &VmFd, line: u32) -> Result<IrqFd, Error> {
    let irq = IrqFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
    let irq = irq.map_err(Error::os("create an event"))?;
    vm.register_irqfd(&irq, line)
        .map_err(Error::kvm("wire an interrupt"))?;
    Ok(irq)
}

/// A disk that sees the guest's memory by a mapping of its own if there is something to be sealed.
fn wire_disk(
    vm: &VmFd,
    disk: Disk,
    memory: &Memory,
    heki: Option<Arc<Heki>>,
    learns: bool,
) -> Result<Transport, Error> {
    let memory = match &heki {
        Some(_) => memory::map_again(memory)?,
        None => memory.clone(),
    };
    Transport::new(
        disk,
        View::new(memory, heki, learns),
        wire_interrupt(vm, mmio::IRQ)?,
    )
}

fn open_kvm() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(Error::OpenKvm)?;
    let wanted = [
        (Cap::Irqchip, "interrupt controllers"),
        (Cap::Pit2, "the timer"),
        (Cap::SetTssAddr, "KVM_SET_TSS_ADDR"),
        (Cap::ImmediateExit, "immediate exits"),
        (Cap::VcpuEvents, "KVM_GET_VCPU_EVENTS"),
    ];
    match wanted
        .into_iter()
        .find(|(cap, _)| !kvm.check_extension(*cap))
    {
        Some((_, name)) => Err(Error::MissingCapability(name)),
        None => Ok(kvm),
    }
}

fn check_cpus(kvm: &Kvm, asked: u32) -> Result<(), Error> {
    let max = kvm.get_max_vcpus().min(kvm.get_max_vcpu_id());
    let max = u32::try_from(max).map_or(acpi::MAX_CPUS, |max| max.min(acpi::MAX_CPUS));
    if asked > max {
        return Err(Error::TooManyCpus { asked, max });
    }
    Ok(())
}

/// A VM with interrupt controllers and timer, no memory and no vCPUs.
fn create_vm(kvm: &Kvm) -> Result<VmFd, Error> {
    let vm = kvm.create_vm().map_err(Error::kvm("create a VM"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .map_err(Error::kvm("place its identity map"))?;
    vm.set_tss_address(KVM_TSS as usize)
        .map_err(Error::kvm("place its TSS"))?;
    vm.create_irq_chip()
        .map_err(Error::kvm("create interrupt controllers"))?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    vm.create_pit2(pit).map_err(Error::kvm("create a timer"))?;
    tell_triple_faults(&vm)?;
    Ok(vm)
}

/// Has a triple fault that is pending be one of a vCPU's events, so that a reset clears it. Before
/// the first state is saved.
fn tell_triple_faults(vm: &VmFd) -> Result<(), Error> {
    if vm.check_extension_raw(KVM_CAP_X86_TRIPLE_FAULT_EVENT.into()) <= 0 {
        return Ok(());
    }
    let cap = kvm_enable_cap {
        cap: KVM_CAP_X86_TRIPLE_FAULT_EVENT,
        args: [1, 0, 0, 0],
        ..Default::default()
    };
    vm.enable_cap(&cap)
        .map_err(Error::kvm("tell triple faults"))
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, count: u32, restorable: bool) -> Result<Vec<Vcpu>, Error> {
    let supported = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(Error::kvm("list CPUID"))?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    let create = |id| {
        let topology = Topology { id, count };
        let cpuid = cpuid::for_vcpu(supported.as_slice(), topology, tsc_deadline);
        Vcpu::new(kvm, vm, id, &cpuid, restorable)
    };
    (0..count).map(create).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ResetCause;

    const RESET: End = End::Reset(ResetCause::I8042);

    fn denied() -> Report {
        Err(Error::Denied {
            cpu: 1,
            rip: 0,
            class: "write",
            reason: "sealed",
        })
    }

    #[test]
    fn no_end_hides_an_error() {
        let is_denied = |report| matches!(report, Err(Error::Denied { .. }));
        assert!(is_denied(graver(Ok(RESET), denied())));
        assert!(is_denied(graver(denied(), Ok(End::PowerOff))));
        assert!(is_denied(graver(denied(), Err(Error::Panic))));
        assert!(matches!(graver(Ok(RESET), Ok(End::PowerOff)), Ok(RESET)));
    }
}
