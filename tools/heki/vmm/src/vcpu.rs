// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! One vCPU: its registers at boot, the loop that runs it, and the way back to its first state.
//!
//! `vm.rs` creates the vCPUs and gives each a thread. What a guest does here ends at worst in a
//! [`Report`]. Locks: that of the devices, for one port access at a time; that of the disk, for one
//! memory access or one request of Heki.

use std::cell::Cell;
use std::os::fd::{
    FromRawFd,
    OwnedFd, //
};
use std::ptr;
use std::thread;
use std::time::Duration;

use heki_abi::{
    Exit,
    KVM_EXIT_HEKI, //
};
use kvm_bindings::{
    kvm_cpuid_entry2,
    kvm_debugregs,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_msr_entry,
    kvm_regs,
    kvm_segment,
    kvm_sregs,
    kvm_vcpu_events,
    kvm_xcrs,
    kvm_xsave,
    CpuId,
    Msrs,
    KVM_SYSTEM_EVENT_CRASH,
    KVM_SYSTEM_EVENT_RESET,
    KVM_SYSTEM_EVENT_SHUTDOWN, //
};
use kvm_ioctls::{
    Cap,
    Kvm,
    VcpuExit,
    VcpuFd,
    VmFd, //
};
use serde::{
    Deserialize,
    Serialize, //
};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;
use vmm_sys_util::signal::{
    register_signal_handler,
    SIGRTMIN, //
};

use crate::boot;
use crate::cpuid;
use crate::devices::Request;
use crate::exit::{
    End,
    Error,
    ResetCause, //
};
use crate::monitor::{
    self,
    Next, //
};
use crate::vm::Shared;

const MSR_TSC: u32 = 0x10;
const MSR_ARCH_CAPABILITIES: u32 = 0x10a;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
const MTRR_WRITE_BACK: u64 = 6 | 1 << 11;
/// Hyper-V's synthetic MSRs, which no guest of ours can use.
const HYPERV_MSRS: std::ops::Range<u32> = 0x4000_0000..0x4000_1000;
/// KVM writes guest memory at once when these are set: of a guest that is restored, before its seal
/// is back. A guest sets them anew before each use.
const WALL_CLOCK_MSRS: [u32; 2] = [0x11, 0x4b56_4d00];

const CR0_PE: u64 = 1 << 0;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Interrupts off; bit 1 is always set.
const RFLAGS: u64 = 1 << 1;

ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);

/// The file of a vCPU's statistics, if KVM has any.
fn statistics(fd: &VcpuFd) -> Option<OwnedFd> {
    // SAFETY: This ioctl takes no argument.
    let file = unsafe { ioctl(fd, KVM_GET_STATS_FD()) };
    // SAFETY: What is not negative is a descriptor that KVM just made for this process.
    (file >= 0).then(|| unsafe { OwnedFd::from_raw_fd(file) })
}

/// What a vCPU has to say at the end of its run.
pub(crate) type Report = Result<End, Error>;

/// A virtual CPU.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    id: u32,
    cpuid: Vec<kvm_cpuid_entry2>,
    initial: Option<Box<State>>,
    /// KVM's statistics: not read here, but open for who may look at this process.
    _statistics: Option<OwnedFd>,
}

/// All that the guest may change in a vCPU. No nested state: `cpuid.rs` hides VMX and SVM.
#[derive(Serialize, Deserialize)]
struct State {
    regs: kvm_regs,
    sregs: kvm_sregs,
    msrs: Vec<kvm_msr_entry>,
    xcrs: Option<kvm_xcrs>,
    xsave: kvm_xsave,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    debug: kvm_debugregs,
    mp: kvm_mp_state,
}

/// A vCPU that another process can go on with.
#[derive(Serialize, Deserialize)]
pub(crate) struct Image {
    cpuid: Vec<kvm_cpuid_entry2>,
    state: State,
    pub(crate) tsc: u64,
    tsc_khz: u32,
}

impl Vcpu {
    /// Creates vCPU `id`. With `restorable`, remembers its state for [`Self::restore`].
    pub(crate) fn new(
        kvm: &Kvm,
        vm: &VmFd,
        id: u32,
        cpuid: &[kvm_cpuid_entry2],
        restorable: bool,
    ) -> Result<Self, Error> {
        let fd = vm
            .create_vcpu(id.into())
            .map_err(Error::kvm("create a vCPU"))?;
        let mut vcpu = Vcpu {
            _statistics: statistics(&fd),
            fd,
            id,
            cpuid: Vec::new(),
            initial: None,
        };
        vcpu.set_cpuid(cpuid)?;
        if restorable {
            vcpu.initial = Some(Box::new(State::save(kvm, &vcpu.fd)?));
        }
        Ok(vcpu)
    }

    fn set_cpuid(&mut self, cpuid: &[kvm_cpuid_entry2]) -> Result<(), Error> {
        let fail = |reason: String| Error::Vcpu {
            cpu: self.id,
            reason,
        };
        let entries =
            CpuId::from_entries(cpuid).map_err(|error| fail(format!("CPUID: {error:?}")))?;
        self.fd
            .set_cpuid2(&entries)
            .map_err(Error::kvm("set a vCPU's CPUID"))?;
        self.cpuid = cpuid.to_vec();
        Ok(())
    }

    /// Back to the state after creation.
    pub(crate) fn restore(&self) -> Result<(), Error> {
        match &self.initial {
            Some(state) => state.restore(&self.fd),
            None => Ok(()),
        }
    }

    /// What the guest left in it. Only when it is not running.
    pub(crate) fn save(&self, kvm: &Kvm) -> Result<Image, Error> {
        let tsc = read_msrs(&self.fd, &[MSR_TSC])?;
        let tsc_khz = self.fd.get_tsc_khz();
        Ok(Image {
            cpuid: self.cpuid.clone(),
            state: State::save(kvm, &self.fd)?,
            tsc: tsc.first().map_or(0, |msr| msr.data),
            tsc_khz: tsc_khz.map_err(Error::kvm("tell the frequency of a TSC"))?,
        })
    }

    /// Makes of a vCPU that has not run one in which `image` can be loaded, or says what this host
    /// lacks for that.
    pub(crate) fn become_like(
        &mut self,
        kvm: &Kvm,
        image: &Image,
    ) -> Result<Option<String>, Error> {
        if let Some(missing) = cpuid::missing(&image.cpuid, &self.cpuid) {
            return Ok(Some(missing));
        }
        // What it says of flaws that the processor lacks decides what the guest's kernel left out.
        let offered = read_msrs(&self.fd, &[MSR_ARCH_CAPABILITIES])?;
        let offered = offered.first().map_or(0, |msr| msr.data);
        let missing = image.state.msr(MSR_ARCH_CAPABILITIES) & !offered;
        if missing != 0 {
            return Ok(Some(format!("bits {missing:#x} of ARCH_CAPABILITIES")));
        }
        self.set_cpuid(&image.cpuid)?;
        let khz = self.fd.get_tsc_khz();
        let khz = khz.map_err(Error::kvm("tell the frequency of a TSC"))?;
        // Without scaling KVM takes a higher frequency, and is late. As it does, count 250 ppm as none.
        let can = khz.abs_diff(image.tsc_khz) <= khz / 4000 || kvm.check_extension(Cap::TscControl);
        if khz != image.tsc_khz && (!can || self.fd.set_tsc_khz(image.tsc_khz).is_err()) {
            return Ok(Some(format!("a TSC of {} kHz", image.tsc_khz)));
        }
        self.take_features(kvm, image)?;
        Ok(None)
    }

    /// Once it has run KVM lets nobody change the MSRs that tell features, not even for a reset.
    fn take_features(&mut self, kvm: &Kvm, image: &Image) -> Result<(), Error> {
        if self.initial.is_none() {
            return Ok(());
        }
        let list = kvm.get_msr_feature_index_list();
        let list = list.map_err(Error::kvm("list its feature MSRs"))?;
        let is_feature = |msr: &&kvm_msr_entry| list.as_slice().contains(&msr.index);
        write_changed(&self.fd, image.state.msrs.iter().filter(is_feature))?;
        self.initial = Some(Box::new(State::save(kvm, &self.fd)?));
        Ok(())
    }

    /// As it was when `image` was saved. `tsc` is the same for all vCPUs.
    pub(crate) fn load(&self, image: &Image, tsc: u64) -> Result<(), Error> {
        write_msr(&self.fd, MSR_TSC, tsc)?;
        image.state.restore(&self.fd)?;
        // KVM takes a deadline only for a timer in that mode, which the APIC's registers say.
        match image.state.msr(MSR_TSC_DEADLINE) {
            0 => Ok(()),
            deadline => write_msr(&self.fd, MSR_TSC_DEADLINE, deadline),
        }
    }

    /// Sets the registers for a boot at `entry`; all vCPUs but the first wait to be woken by it.
    pub(crate) fn prepare(&self, entry: u64) -> Result<(), Error> {
        self.prepare_msrs()?;
        if self.id != 0 {
            return Ok(());
        }
        let regs = kvm_regs {
            rip: entry,
            rsi: boot::ZERO_PAGE,
            rflags: RFLAGS,
            ..Default::default()
        };
        self.fd
            .set_regs(&regs)
            .map_err(Error::kvm("set registers"))?;
        let mut sregs = self.fd.get_sregs().map_err(Error::kvm("read registers"))?;
        enter_long_mode(&mut sregs);
        self.fd
            .set_sregs(&sregs)
            .map_err(Error::kvm("set system registers"))
    }

    /// What firmware would do: memory is cached, string instructions are fast.
    fn prepare_msrs(&self) -> Result<(), Error> {
        let misc = read_msrs(&self.fd, &[MSR_MISC_ENABLE])?;
        let misc = misc.first().map_or(0, |msr| msr.data) | MISC_ENABLE_FAST_STRING;
        for (index, data) in [(MSR_MISC_ENABLE, misc), (MSR_MTRR_DEFAULT, MTRR_WRITE_BACK)] {
            write_msr(&self.fd, index, data)?;
        }
        Ok(())
    }

    /// Runs the guest until it ends or until [`Shared::stopping`]. To be called on the vCPU's own
    /// thread.
    pub(crate) fn run(&mut self, shared: &Shared) {
        let kickable = Kickable::new(&mut self.fd);
        if let Some(report) = self.run_guest(shared) {
            shared.report(report);
        }
        self.finish_access(shared);
        drop(kickable);
    }

    fn run_guest(&mut self, shared: &Shared) -> Option<Report> {
        self.fd.set_kvm_immediate_exit(0);
        while !shared.stopping() {
            let seen = match self.fd.run() {
                Ok(exit) => handle(exit, shared),
                Err(error) => Seen::Error(error.errno()),
            };
            let seen = match seen {
                Seen::Heki => self.serve_heki(shared),
                seen => seen,
            };
            match seen {
                Seen::Done | Seen::Error(libc::EAGAIN) => {}
                // Cleared before `stopping` is asked again: a kick that comes later sets it again.
                Seen::Error(libc::EINTR) => self.fd.set_kvm_immediate_exit(0),
                Seen::Report(report) => return Some(report),
                other => return Some(self.explain(other)),
            }
        }
        None
    }

    /// Serves an exit of Heki: answers a request, tells of a denial, or waits in a pause.
    fn serve_heki(&mut self, shared: &Shared) -> Seen {
        /// A pause ends with the run.
        const PAUSE: Duration = Duration::from_millis(10);

        let Some(monitor) = shared.monitor() else {
            return Seen::Unexpected("Heki without a policy".into());
        };
        let exit = ptr::from_mut(&mut self.fd.get_kvm_run().__bindgen_anon_1).cast::<Exit>();
        // SAFETY: KVM said by the exit reason that it filled an `Exit` in, for which the union has
        // room and alignment; any bits are a valid one.
        let known = unsafe { exit.read() };
        match monitor.serve(&known, shared.memory()) {
            Ok(Next::Answer(answer)) => {
                // SAFETY: as above; the page is ours to write until KVM runs this vCPU again.
                unsafe { (*exit).answer = answer };
                self.complete_request(shared)
            }
            Ok(Next::Start) => {
                // SAFETY: as above.
                unsafe { (*exit).answer = 0 };
                Seen::Report(Ok(End::Kexec))
            }
            Ok(Next::Run) => Seen::Done,
            Ok(Next::Wait) => {
                thread::sleep(PAUSE);
                Seen::Done
            }
            Ok(Next::Stop) => Seen::Report(Err(Error::Denied {
                cpu: known.vcpu,
                rip: known.rip,
                class: monitor::class(known.denied),
                reason: monitor::reason(known.reason),
            })),
            Err(error) => Seen::Report(Err(error)),
        }
    }

    /// Has KVM do what the guest asked for, while no device works, and then has the devices follow.
    /// The guest does not run meanwhile.
    fn complete_request(&mut self, shared: &Shared) -> Seen {
        let Some(mut disk) = shared.disk() else {
            return Seen::Done;
        };
        self.fd.set_kvm_immediate_exit(1);
        let done = self.fd.run();
        if let Err(error) = disk.follow() {
            return Seen::Report(Err(error));
        }
        // What else may have come needs the disk.
        drop(disk);
        match done {
            Ok(exit) => handle(exit, shared),
            Err(error) => Seen::Error(error.errno()),
        }
    }

    /// Lets KVM complete the port or memory access that it last reported, without running the
    /// guest.
    fn finish_access(&mut self, shared: &Shared) {
        /// Any access is in fewer parts.
        const MAX_PARTS: usize = 16;
        self.fd.set_kvm_immediate_exit(1);
        for _ in 0..MAX_PARTS {
            match self.fd.run() {
                Ok(exit) => drop(handle(exit, shared)),
                Err(_) => break,
            }
        }
    }

    /// The report for an end that only the vCPU's state explains.
    fn explain(&mut self, seen: Seen) -> Report {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        let reason = match seen {
            Seen::TripleFault => {
                return Ok(End::Reset(ResetCause::TripleFault { cpu: self.id, rip }))
            }
            Seen::InternalError => {
                // SAFETY: KVM filled this variant in, it said so by the exit reason; any bits are a
                // valid integer.
                let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
                format!(
                    "KVM internal error {suberror} ({}) at rip {rip:#x}",
                    internal_error(suberror)
                )
            }
            Seen::Unexpected(exit) => format!("unexpected exit {exit} at rip {rip:#x}"),
            Seen::Error(errno) => {
                let error = std::io::Error::from_raw_os_error(errno);
                format!("KVM cannot run it at rip {rip:#x}: {error}")
            }
            Seen::Done | Seen::Heki | Seen::Report(_) => format!("stopped at rip {rip:#x}"),
        };
        Err(Error::Vcpu {
            cpu: self.id,
            reason,
        })
    }
}

/// What an exit turned out to be.
enum Seen {
    Done,
    Heki,
    Report(Report),
    TripleFault,
    InternalError,
    Unexpected(String),
    Error(i32),
}

/// Serves one exit.
fn handle(exit: VcpuExit<'_>, shared: &Shared) -> Seen {
    match exit {
        VcpuExit::IoOut(port, data) => match shared.devices().write(port, data) {
            None => Seen::Done,
            Some(Request::End(end)) => Seen::Report(Ok(end)),
            Some(Request::ConsoleLost(source)) => Seen::Report(Err(Error::Os {
                what: "write the guest's output",
                source,
            })),
        },
        VcpuExit::IoIn(port, data) => {
            shared.devices().read(port, data);
            Seen::Done
        }
        VcpuExit::MmioRead(addr, data) => {
            match shared.disk() {
                Some(mut disk) => disk.read(addr, data),
                None => data.fill(0xff),
            }
            Seen::Done
        }
        VcpuExit::MmioWrite(addr, data) => {
            if let Some(mut disk) = shared.disk() {
                disk.write(addr, data);
            }
            Seen::Done
        }
        VcpuExit::Intr => Seen::Done,
        VcpuExit::Shutdown => Seen::TripleFault,
        VcpuExit::InternalError => Seen::InternalError,
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => {
            Seen::Report(Ok(End::Reset(ResetCause::SystemEvent)))
        }
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => Seen::Report(Ok(End::PowerOff)),
        VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_CRASH, _) => Seen::Unexpected("guest crash".into()),
        VcpuExit::FailEntry(reason, _) => {
            Seen::Unexpected(format!("failed entry (hardware reason {reason:#x})"))
        }
        VcpuExit::Unsupported(KVM_EXIT_HEKI) => Seen::Heki,
        other => Seen::Unexpected(format!("{other:?}")),
    }
}

fn internal_error(suberror: u32) -> &'static str {
    match suberror {
        1 => "an instruction could not be emulated",
        2 => "two exceptions at once",
        3 => "an exit while an event was delivered",
        4 => "an exit reason unknown to KVM",
        _ => "see the host's kernel log",
    }
}

/// 64-bit mode with the tables that `boot.rs` writes.
fn enter_long_mode(sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        limit: 0xffff_ffff,
        selector: 0x18,
        type_: 3,
        present: 1,
        s: 1,
        db: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: 0x10,
        type_: 11,
        db: 0,
        l: 1,
        ..data
    };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.gdt.base = boot::GDT;
    sregs.gdt.limit = (size_of_val(&boot::GDT_ENTRIES) - 1) as u16;
    sregs.cr0 |= CR0_PE | CR0_PG;
    sregs.cr3 = boot::PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.efer |= EFER_LME | EFER_LMA;
}

impl State {
    /// Order matters: where an INIT or a SIPI is pending, KVM takes it to tell the run state, which
    /// changes registers.
    fn save(kvm: &Kvm, fd: &VcpuFd) -> Result<Self, Error> {
        let read = || Error::kvm("read a vCPU's state");
        let mp = fd.get_mp_state().map_err(read())?;
        let xcrs = match kvm.check_extension(Cap::Xcrs) {
            true => Some(fd.get_xcrs().map_err(read())?),
            false => None,
        };
        Ok(State {
            regs: fd.get_regs().map_err(read())?,
            sregs: fd.get_sregs().map_err(read())?,
            msrs: read_msrs(fd, &restorable_msrs(kvm)?)?,
            xcrs,
            xsave: fd.get_xsave().map_err(read())?,
            lapic: fd.get_lapic().map_err(read())?,
            events: fd.get_vcpu_events().map_err(read())?,
            debug: fd.get_debug_regs().map_err(read())?,
            mp,
        })
    }

    /// Order matters: the APIC's mode (in `sregs`) comes before its registers.
    fn restore(&self, fd: &VcpuFd) -> Result<(), Error> {
        fd.set_regs(&self.regs)
            .map_err(Error::kvm("reset registers"))?;
        fd.set_sregs(&self.sregs)
            .map_err(Error::kvm("reset system registers"))?;
        self.restore_msrs(fd)?;
        if let Some(xcrs) = &self.xcrs {
            fd.set_xcrs(xcrs).map_err(Error::kvm("reset XCR0"))?;
        }
        // SAFETY: This process asks for no dynamically enabled features, so that KVM reads no more
        // than `kvm_xsave` holds.
        unsafe { fd.set_xsave(&self.xsave) }.map_err(Error::kvm("reset the FPU"))?;
        fd.set_lapic(&self.lapic)
            .map_err(Error::kvm("reset the APIC"))?;
        fd.set_vcpu_events(&self.events)
            .map_err(Error::kvm("reset pending events"))?;
        fd.set_debug_regs(&self.debug)
            .map_err(Error::kvm("reset debug registers"))?;
        fd.set_mp_state(self.mp)
            .map_err(Error::kvm("reset the run state"))
    }

    /// The value of an MSR, zero if it has none.
    fn msr(&self, index: u32) -> u64 {
        let mut msrs = self.msrs.iter();
        msrs.find(|msr| msr.index == index)
            .map_or(0, |msr| msr.data)
    }

    fn restore_msrs(&self, fd: &VcpuFd) -> Result<(), Error> {
        write_changed(fd, self.msrs.iter())
    }
}

/// Writes the MSRs that have changed; KVM reports some that it lets nobody write.
fn write_changed<'a>(
    fd: &VcpuFd,
    msrs: impl Iterator<Item = &'a kvm_msr_entry> + Clone,
) -> Result<(), Error> {
    let indices: Vec<u32> = msrs.clone().map(|msr| msr.index).collect();
    let current = read_msrs(fd, &indices)?;
    for wanted in msrs {
        let mut same = current.iter().filter(|now| now.index == wanted.index);
        if same.next().is_none_or(|now| now.data != wanted.data) {
            write_msr(fd, wanted.index, wanted.data)?;
        }
    }
    Ok(())
}

/// The MSRs that a reset puts back. The TSC goes on, so that the vCPUs stay in step.
fn restorable_msrs(kvm: &Kvm) -> Result<Vec<u32>, Error> {
    let list = kvm
        .get_msr_index_list()
        .map_err(Error::kvm("list its MSRs"))?;
    let skipped = |index: &u32| {
        *index == MSR_TSC || WALL_CLOCK_MSRS.contains(index) || HYPERV_MSRS.contains(index)
    };
    Ok(list
        .as_slice()
        .iter()
        .copied()
        .filter(|index| !skipped(index))
        .collect())
}

/// Reads those of the MSRs that this vCPU has.
fn read_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, Error> {
    let fail = || Error::kvm("read MSRs");
    let mut found = Vec::new();
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<_> = rest.iter().map(|index| msr(*index, 0)).collect();
        let mut msrs = Msrs::from_entries(&entries)
            .map_err(|_| fail()(kvm_ioctls::Error::new(libc::E2BIG)))?;
        // KVM stops at the first that it does not know.
        let nr_read = fd.get_msrs(&mut msrs).map_err(fail())?;
        found.extend(msrs.as_slice().iter().take(nr_read));
        rest = rest.get(nr_read + 1..).unwrap_or_default();
    }
    Ok(found)
}

fn write_msr(fd: &VcpuFd, index: u32, data: u64) -> Result<(), Error> {
    let written = Msrs::from_entries(&[msr(index, data)])
        .ok()
        .map(|msrs| fd.set_msrs(&msrs));
    match written {
        Some(Ok(1)) => Ok(()),
        Some(Err(source)) => Err(Error::kvm("set an MSR")(source)),
        _ => Err(Error::Msr { index, data }),
    }
}

fn msr(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

thread_local! {
    /// The flag that makes KVM return at once, of the vCPU that runs on this thread.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that takes a vCPU's thread out of KVM.
pub(crate) fn kick_signal() -> i32 {
    SIGRTMIN()
}

/// Prepares this process for [`kick_signal`].
pub(crate) fn prepare_kicks() -> Result<(), Error> {
    register_signal_handler(kick_signal(), on_kick).map_err(Error::os("set up a signal"))
}

/// Sets the flag, for a signal that comes just before KVM is entered would otherwise be lost.
extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let flag = IMMEDIATE_EXIT.get();
    if !flag.is_null() {
        // SAFETY: Not null means that a `Kickable` lives on this very thread, and with it the page
        // that holds the flag.
        unsafe { flag.write_volatile(1) };
    }
}

/// While this lives, a kick of this thread reaches the vCPU.
struct Kickable;

impl Kickable {
    fn new(fd: &mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut fd.get_kvm_run().immediate_exit);
        Kickable
    }
}

impl Drop for Kickable {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_mode_registers_match_the_descriptors() {
        let mut sregs = kvm_sregs::default();
        enter_long_mode(&mut sregs);
        for segment in [sregs.cs, sregs.ds] {
            let descriptor = boot::GDT_ENTRIES[usize::from(segment.selector / 8)];
            let access = (descriptor >> 40) as u8;
            let flags = (descriptor >> 52) as u8;
            assert_eq!(
                access,
                segment.present << 7 | segment.s << 4 | segment.type_
            );
            assert_eq!(
                flags & 0xf,
                segment.g << 3 | segment.db << 2 | segment.l << 1
            );
        }
        assert_eq!(sregs.gdt.limit, 31);
    }

    #[test]
    fn a_kick_without_a_vcpu_is_harmless() {
        on_kick(0, ptr::null_mut(), ptr::null_mut());
        let mut flag = 0;
        IMMEDIATE_EXIT.set(&raw mut flag);
        on_kick(0, ptr::null_mut(), ptr::null_mut());
        IMMEDIATE_EXIT.set(ptr::null_mut());
        assert_eq!(flag, 1);
    }
}
