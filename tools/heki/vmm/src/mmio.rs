// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The registers and the queue of the disk: virtio over MMIO, version 2 (virtio 1.2, 4.2.2).
//!
//! vCPU threads call on accesses to [`BASE`] (`vcpu.rs`); `vm.rs` announces the device on the
//! guest's command line. Requests go to `disk.rs` one by one, on the thread of the vCPU that
//! notifies. Locks: `vm.rs` has one `Mutex` around [`Transport`], under which the view follows what
//! the guest seals; nothing is locked under it.

#![deny(unsafe_code)]

use std::io;
use std::ops::RangeInclusive;

use serde::{
    Deserialize,
    Serialize, //
};
use virtio_queue::{
    Queue,
    QueueOwnedT,
    QueueState,
    QueueT, //
};
use vmm_sys_util::eventfd::EventFd as IrqFd;

use crate::disk::{
    Disk,
    Part, //
};
use crate::exit::Error;
use crate::memory::Memory;
use crate::view::View;

/// Where the registers are: in the hole below 4 GiB.
pub(crate) const BASE: u64 = 0xd000_0000;
/// The interrupt line.
pub(crate) const IRQ: u32 = 5;
/// What the guest's kernel is told by its command line.
pub(crate) const CMDLINE: &str = "virtio_mmio.device=4K@0xd0000000:5";

const WINDOW: RangeInclusive<u64> = BASE..=BASE + 0xfff;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
const DEVICE_BLOCK: u32 = 2;
const VENDOR: u32 = 0x494b_4548;
const QUEUE_MAX: u16 = 64;

const FEATURE_RO: u64 = 1 << 5;
const FEATURE_FLUSH: u64 = 1 << 9;
const FEATURE_VERSION_1: u64 = 1 << 32;

const STATUS_DRIVER_OK: u32 = 4;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_NEEDS_RESET: u32 = 0x40;

const INTERRUPT_USED: u32 = 1;
const INTERRUPT_CONFIG: u32 = 2;

mod register {
    pub(super) const MAGIC: u64 = 0x00;
    pub(super) const VERSION: u64 = 0x04;
    pub(super) const DEVICE: u64 = 0x08;
    pub(super) const VENDOR: u64 = 0x0c;
    pub(super) const DEVICE_FEATURES: u64 = 0x10;
    pub(super) const DEVICE_FEATURES_SEL: u64 = 0x14;
    pub(super) const DRIVER_FEATURES: u64 = 0x20;
    pub(super) const DRIVER_FEATURES_SEL: u64 = 0x24;
    pub(super) const QUEUE_SEL: u64 = 0x30;
    pub(super) const QUEUE_MAX: u64 = 0x34;
    pub(super) const QUEUE_SIZE: u64 = 0x38;
    pub(super) const QUEUE_READY: u64 = 0x44;
    pub(super) const QUEUE_NOTIFY: u64 = 0x50;
    pub(super) const INTERRUPT_STATUS: u64 = 0x60;
    pub(super) const INTERRUPT_ACK: u64 = 0x64;
    pub(super) const STATUS: u64 = 0x70;
    pub(super) const QUEUE_DESC_LOW: u64 = 0x80;
    pub(super) const QUEUE_DESC_HIGH: u64 = 0x84;
    pub(super) const QUEUE_AVAIL_LOW: u64 = 0x90;
    pub(super) const QUEUE_AVAIL_HIGH: u64 = 0x94;
    pub(super) const QUEUE_USED_LOW: u64 = 0xa0;
    pub(super) const QUEUE_USED_HIGH: u64 = 0xa4;
    pub(super) const CONFIG: u64 = 0x100;
}

/// What the driver writes, all zero after a reset.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Registers {
    status: u32,
    interrupt: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
}

/// The device.
pub(crate) struct Transport {
    disk: Disk,
    view: View,
    irq: IrqFd,
    queue: Queue,
    registers: Registers,
}

/// All that the guest may change in the device, and what it knows of the disk.
#[derive(Serialize, Deserialize)]
pub(crate) struct Image {
    registers: Registers,
    #[serde(with = "QueueImage")]
    queue: QueueState,
    sectors: u64,
    read_only: bool,
}

/// Where the queue is and how far it is served.
#[derive(Serialize, Deserialize)]
#[serde(remote = "QueueState")]
struct QueueImage {
    max_size: u16,
    next_avail: u16,
    next_used: u16,
    event_idx_enabled: bool,
    size: u16,
    ready: bool,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

/// The queue is not one: the driver has to reset the device.
struct Broken;

impl Transport {
    /// The device as after power-on. `irq` is its interrupt.
    pub(crate) fn new(disk: Disk, view: View, irq: IrqFd) -> Result<Self, Error> {
        // Fails only for a size that is no power of two.
        let queue = Queue::new(QUEUE_MAX).map_err(|_| Error::Panic)?;
        Ok(Transport {
            disk,
            view,
            irq,
            queue,
            registers: Registers::default(),
        })
    }

    /// Back to the state after power-on, with what is sealed now.
    pub(crate) fn reset(&mut self) -> Result<(), Error> {
        self.reset_device();
        self.follow()
    }

    /// Takes over what the host holds sealed now.
    pub(crate) fn follow(&mut self) -> Result<(), Error> {
        self.view.follow()
    }

    /// What the guest finds in it. What was written to the disk is in its file.
    pub(crate) fn save(&self) -> io::Result<Image> {
        self.disk.sync()?;
        Ok(Image {
            registers: self.registers.clone(),
            queue: self.queue.state(),
            sectors: self.disk.sectors(),
            read_only: self.disk.read_only(),
        })
    }

    /// As it was when `image` was saved, or why that cannot be.
    pub(crate) fn load(&mut self, image: &Image) -> Result<(), &'static str> {
        if image.sectors != self.disk.sectors() {
            return Err("its guest has a disk of another size (--disk)");
        }
        if image.read_only != self.disk.read_only() {
            return Err("only one of both disks is read-only (--disk)");
        }
        if image.queue.max_size != QUEUE_MAX {
            return Err("its guest has another disk");
        }
        let broken = "the queue of its disk is none";
        self.queue = Queue::try_from(image.queue).map_err(|_| broken)?;
        self.registers = image.registers.clone();
        Ok(())
    }

    fn reset_device(&mut self) {
        self.queue.reset();
        self.registers = Registers::default();
    }

    /// The guest reads `data.len()` bytes at `addr`.
    pub(crate) fn read(&mut self, addr: u64, data: &mut [u8]) {
        if !WINDOW.contains(&addr) {
            data.fill(0xff);
            return;
        }
        let offset = addr - BASE;
        match offset.checked_sub(register::CONFIG) {
            // The only field that a disk must have.
            Some(at) => {
                let config = self.disk.sectors().to_le_bytes();
                let bytes = config.into_iter().skip(at as usize);
                for (byte, value) in data.iter_mut().zip(bytes.chain(std::iter::repeat(0))) {
                    *byte = value;
                }
            }
            None => match <&mut [u8; 4]>::try_from(&mut *data) {
                Ok(word) => *word = self.register(offset).to_le_bytes(),
                Err(_) => data.fill(0),
            },
        }
    }

    fn register(&self, offset: u64) -> u32 {
        match offset {
            register::MAGIC => MAGIC,
            register::VERSION => VERSION,
            register::DEVICE => DEVICE_BLOCK,
            register::VENDOR => VENDOR,
            register::DEVICE_FEATURES => half(self.features(), self.registers.device_features_sel),
            register::QUEUE_MAX if self.registers.queue_sel == 0 => QUEUE_MAX.into(),
            register::QUEUE_READY if self.registers.queue_sel == 0 => self.queue.ready().into(),
            register::INTERRUPT_STATUS => self.registers.interrupt,
            register::STATUS => self.registers.status,
            _ => 0,
        }
    }

    fn features(&self) -> u64 {
        let read_only = match self.disk.read_only() {
            true => FEATURE_RO,
            false => 0,
        };
        FEATURE_VERSION_1 | FEATURE_FLUSH | read_only
    }

    /// The guest writes `data` at `addr`. All registers are four bytes wide.
    pub(crate) fn write(&mut self, addr: u64, data: &[u8]) {
        let (true, Ok(word)) = (WINDOW.contains(&addr), <[u8; 4]>::try_from(data)) else {
            return;
        };
        let (offset, value) = (addr - BASE, u32::from_le_bytes(word));
        match offset {
            register::DEVICE_FEATURES_SEL => self.registers.device_features_sel = value,
            register::DRIVER_FEATURES_SEL => self.registers.driver_features_sel = value,
            register::DRIVER_FEATURES => self.take_features(value),
            register::QUEUE_SEL => self.registers.queue_sel = value,
            register::QUEUE_NOTIFY if value == 0 => self.notify(),
            register::INTERRUPT_ACK => self.registers.interrupt &= !value,
            register::STATUS => self.set_status(value),
            _ if self.registers.queue_sel == 0 => self.set_queue(offset, value),
            _ => {}
        }
    }

    fn take_features(&mut self, value: u32) {
        let (value, features) = (u64::from(value), &mut self.registers.driver_features);
        match self.registers.driver_features_sel {
            0 => *features = *features & !0xffff_ffff | value,
            1 => *features = *features & 0xffff_ffff | value << 32,
            // Bits that no device of ours has. None is lost: they are refused by FEATURES_OK.
            _ if value != 0 => *features = u64::MAX,
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset_device();
            return;
        }
        let wanted = self.registers.driver_features;
        let agreed = wanted & !self.features() == 0 && wanted & FEATURE_VERSION_1 != 0;
        let refused = match agreed {
            true => 0,
            false => STATUS_FEATURES_OK | STATUS_DRIVER_OK,
        };
        // A broken device stays so until its reset.
        let broken = self.registers.status & STATUS_NEEDS_RESET;
        self.registers.status = value & !refused | broken;
    }

    /// The queue lies where it lies until it is reset.
    fn set_queue(&mut self, offset: u64, value: u32) {
        if self.queue.ready() {
            return;
        }
        let (low, high) = (Some(value), Some(value));
        match offset {
            // What is no size is not taken: the queue keeps the one that it had.
            register::QUEUE_SIZE => self.queue.set_size(u16::try_from(value).unwrap_or(0)),
            register::QUEUE_READY => self.queue.set_ready(value == 1),
            register::QUEUE_DESC_LOW => self.queue.set_desc_table_address(low, None),
            register::QUEUE_DESC_HIGH => self.queue.set_desc_table_address(None, high),
            register::QUEUE_AVAIL_LOW => self.queue.set_avail_ring_address(low, None),
            register::QUEUE_AVAIL_HIGH => self.queue.set_avail_ring_address(None, high),
            register::QUEUE_USED_LOW => self.queue.set_used_ring_address(low, None),
            register::QUEUE_USED_HIGH => self.queue.set_used_ring_address(None, high),
            _ => {}
        }
    }

    /// There are requests.
    fn notify(&mut self) {
        let status = self.registers.status;
        if status & STATUS_DRIVER_OK == 0 || status & STATUS_NEEDS_RESET != 0 {
            return;
        }
        match self.serve() {
            Ok(0) => {}
            Ok(_) => self.interrupt(INTERRUPT_USED),
            Err(Broken) => {
                self.registers.status |= STATUS_NEEDS_RESET;
                self.interrupt(INTERRUPT_CONFIG);
            }
        }
    }

    /// Serves what is there, no more than the queue holds: what comes meanwhile comes with a
    /// notification of its own.
    fn serve(&mut self) -> Result<u16, Broken> {
        let memory = self.view.memory();
        if !self.queue.is_valid(memory)
            || !self.view.may_write(self.queue.used_ring(), self.used_len())
        {
            return Err(Broken);
        }
        for served in 0..self.queue.size() {
            let Some((head, request)) = take_request(&mut self.queue, memory)? else {
                return Ok(served);
            };
            let written = self.disk.serve(&self.view, &request);
            self.queue
                .add_used(memory, head, written)
                .map_err(|_| Broken)?;
        }
        Ok(self.queue.size())
    }

    fn used_len(&self) -> u64 {
        6 + 8 * u64::from(self.queue.size())
    }

    fn interrupt(&mut self, reason: u32) {
        self.registers.interrupt |= reason;
        // Fails only when the count is full, and then the interrupt is pending.
        let _ = self.irq.write(1);
    }
}

/// The next request, copied: the guest may change its descriptors from now on. One that does not
/// end is empty.
fn take_request(queue: &mut Queue, memory: &Memory) -> Result<Option<(u16, Vec<Part>)>, Broken> {
    let next = queue.iter(memory).map_err(|_| Broken)?.next();
    let Some(chain) = next else {
        return Ok(None);
    };
    let head = chain.head_index();
    let mut ended = false;
    let mut parts = Vec::new();
    for descriptor in chain {
        ended = !descriptor.has_next();
        parts.push(Part {
            addr: descriptor.addr().0,
            len: descriptor.len(),
            ours: descriptor.is_write_only(),
        });
    }
    if !ended {
        parts.clear();
    }
    Ok(Some((head, parts)))
}

/// The low or the high half.
fn half(bits: u64, sel: u32) -> u32 {
    match sel {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::disk;
    use crate::view::tests::view;
    use proptest::prelude::*;
    use vm_memory::{
        Bytes,
        GuestAddress, //
    };

    const PAGE: u64 = 0x1000;
    const SEALED: u64 = 4 * PAGE;
    const DESC: u64 = 0x1_0000;
    const AVAIL: u64 = 0x1_1000;
    const USED: u64 = 0x1_2000;
    const HEADER_AT: u64 = 0x100;
    const STATUS_AT: u64 = 0x200;
    const ID_AT: u64 = 0x300;
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const GET_ID: u32 = 8;

    struct Machine {
        device: Transport,
        memory: Memory,
    }

    impl Machine {
        fn new() -> Self {
            let (memory, view) = view(&[(SEALED, SEALED + PAGE)]);
            let irq = IrqFd::new(libc::EFD_NONBLOCK).unwrap();
            Machine {
                device: Transport::new(disk(), view, irq).unwrap(),
                memory,
            }
        }

        fn get(&mut self, register: u64) -> u32 {
            let mut word = [0xee; 4];
            self.device.read(BASE + register, &mut word);
            u32::from_le_bytes(word)
        }

        fn set(&mut self, register: u64, value: u32) {
            self.device.write(BASE + register, &value.to_le_bytes());
        }

        fn agree(&mut self) {
            self.set(register::DRIVER_FEATURES_SEL, 1);
            self.set(register::DRIVER_FEATURES, 1);
            self.set(register::STATUS, 3 | STATUS_FEATURES_OK);
        }

        /// What a driver does, with its used ring at `used`.
        fn start(&mut self, used: u64) {
            self.agree();
            self.set(register::QUEUE_SIZE, 8);
            self.set(register::QUEUE_DESC_LOW, DESC as u32);
            self.set(register::QUEUE_AVAIL_LOW, AVAIL as u32);
            self.set(register::QUEUE_USED_LOW, used as u32);
            self.set(register::QUEUE_READY, 1);
            let status = 3 | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
            self.set(register::STATUS, status);
            assert_eq!(self.get(register::STATUS), status);
        }

        fn descriptor(&self, index: u64, part: (u64, u32), flags: u16, next: u16) {
            let at = DESC + 16 * index;
            self.put(at, part.0);
            self.put(
                at + 8,
                u64::from(part.1) | u64::from(flags) << 32 | u64::from(next) << 48,
            );
        }

        fn put(&self, addr: u64, value: u64) {
            self.memory.write_obj(value, GuestAddress(addr)).unwrap();
        }

        fn word(&self, addr: u64) -> u16 {
            self.memory.read_obj(GuestAddress(addr)).unwrap()
        }

        /// Asks for the ID of the disk, in the one chain that there is.
        fn offer_request(&self) {
            self.put(HEADER_AT, GET_ID.into());
            self.put(STATUS_AT, 0xff);
            self.descriptor(0, (HEADER_AT, 16), NEXT, 1);
            self.descriptor(1, (ID_AT, 20), NEXT | WRITE, 2);
            self.descriptor(2, (STATUS_AT, 1), WRITE, 0);
            // The first entry is descriptor 0, and there is one entry.
            self.put(AVAIL, 1 << 16);
        }

        fn is_broken(&mut self) -> bool {
            self.get(register::STATUS) & STATUS_NEEDS_RESET != 0
        }
    }

    #[test]
    fn the_device_says_what_it_is() {
        let mut m = Machine::new();
        assert_eq!(m.get(register::MAGIC), u32::from_le_bytes(*b"virt"));
        assert_eq!((m.get(register::VERSION), m.get(register::DEVICE)), (2, 2));
        assert_eq!(
            (m.get(register::CONFIG), m.get(register::CONFIG + 4)),
            (4, 0)
        );
        assert_eq!(m.get(register::QUEUE_MAX), 64);
        m.set(register::QUEUE_SEL, 1);
        assert_eq!(m.get(register::QUEUE_MAX), 0);
        let mut bytes = [0; 3];
        m.device.read(BASE, &mut bytes);
        assert_eq!(bytes, [0; 3]);
        m.device.read(BASE - 4, &mut bytes);
        assert_eq!(bytes, [0xff; 3]);
    }

    #[test]
    fn features_that_are_not_there_are_refused() {
        let mut m = Machine::new();
        m.set(register::STATUS, 3 | STATUS_FEATURES_OK);
        assert_eq!(m.get(register::STATUS), 3);
        m.agree();
        assert_eq!(m.get(register::STATUS), 3 | STATUS_FEATURES_OK);
        for (sel, bits) in [(0, 1 << 5), (1, 3), (2, 1), (u32::MAX, 1)] {
            let mut m = Machine::new();
            m.agree();
            m.set(register::DRIVER_FEATURES_SEL, sel);
            m.set(register::DRIVER_FEATURES, bits);
            m.set(register::STATUS, 3 | STATUS_FEATURES_OK);
            assert_eq!(m.get(register::STATUS), 3, "{sel} {bits}");
        }
    }

    #[test]
    fn a_request_is_served_and_told() {
        let mut m = Machine::new();
        m.start(USED);
        m.offer_request();
        m.set(register::QUEUE_NOTIFY, 0);
        assert_eq!((m.word(USED + 2), m.word(USED + 8)), (1, 21));
        assert_eq!((m.word(STATUS_AT), m.word(ID_AT) as u8), (0, b'h'));
        assert_eq!(m.device.irq.read().unwrap(), 1);
        assert_eq!(m.get(register::INTERRUPT_STATUS), INTERRUPT_USED);
        m.set(register::INTERRUPT_ACK, INTERRUPT_USED);
        assert_eq!(m.get(register::INTERRUPT_STATUS), 0);
        // Nothing new, nothing to tell.
        m.set(register::QUEUE_NOTIFY, 0);
        assert!(m.device.irq.read().is_err());
    }

    #[test]
    fn nothing_is_served_before_the_driver_is_ready() {
        let mut m = Machine::new();
        m.offer_request();
        m.set(register::QUEUE_NOTIFY, 0);
        assert_eq!((m.word(USED + 2), m.word(STATUS_AT)), (0, 0xff));
    }

    /// The second request is served by another device, which goes on where the first one was.
    #[test]
    fn an_image_has_all_of_it() {
        let mut from = Machine::new();
        from.start(USED);
        from.offer_request();
        from.set(register::QUEUE_NOTIFY, 0);
        let image = serde_json::to_string(&from.device.save().unwrap()).unwrap();
        let mut to = Machine::new();
        to.device
            .load(&serde_json::from_str(&image).unwrap())
            .unwrap();
        assert_eq!(to.get(register::STATUS), from.get(register::STATUS));
        assert_eq!(to.get(register::INTERRUPT_STATUS), INTERRUPT_USED);
        to.offer_request();
        to.put(AVAIL, 2 << 16);
        to.set(register::QUEUE_NOTIFY, 0);
        assert_eq!((to.word(USED + 2), to.word(USED + 16)), (2, 21));
        assert_eq!((to.word(STATUS_AT), to.word(ID_AT) as u8), (0, b'h'));
    }

    #[test]
    fn only_the_same_disk_fits() {
        let image = Machine::new().device.save().unwrap();
        let refusal = |image: &Image| Machine::new().device.load(image).err().unwrap_or("");
        assert_eq!(refusal(&image), "");
        let queue = image.queue;
        let with = |sectors, read_only, queue| Image {
            registers: Registers::default(),
            queue,
            sectors,
            read_only,
        };
        assert!(refusal(&with(5, false, queue)).contains("size"));
        assert!(refusal(&with(4, true, queue)).contains("read-only"));
        let max_size = 2 * QUEUE_MAX;
        assert!(refusal(&with(4, false, QueueState { max_size, ..queue })).contains("another"));
        let size = 2 * QUEUE_MAX;
        assert!(refusal(&with(4, false, QueueState { size, ..queue })).contains("queue"));
    }

    /// The used ring is written by the device too.
    #[test]
    fn a_queue_in_sealed_memory_is_broken_until_the_reset() {
        for used in [SEALED, SEALED - 64, SEALED + PAGE - 4] {
            let mut m = Machine::new();
            m.start(used);
            m.offer_request();
            m.set(register::QUEUE_NOTIFY, 0);
            assert!(m.is_broken());
            assert_eq!(m.get(register::INTERRUPT_STATUS), INTERRUPT_CONFIG);
            assert_eq!((m.word(used + 2), m.word(STATUS_AT)), (0, 0xff));
            m.set(register::STATUS, 7);
            assert!(m.is_broken());
            m.set(register::STATUS, 0);
            assert_eq!(m.get(register::STATUS), 0);
            m.start(USED);
            m.set(register::QUEUE_NOTIFY, 0);
            assert_eq!(m.word(STATUS_AT), 0);
        }
    }

    #[test]
    fn a_queue_that_is_none_is_broken() {
        // More entries than it has; a ring outside of memory; no size.
        let mut m = Machine::new();
        m.start(USED);
        m.put(AVAIL, 1000 << 16);
        m.set(register::QUEUE_NOTIFY, 0);
        assert!(m.is_broken());
        let mut m = Machine::new();
        m.start(0xf000_0000);
        m.set(register::QUEUE_NOTIFY, 0);
        assert!(m.is_broken());
        let mut m = Machine::new();
        m.start(USED);
        m.set(register::QUEUE_USED_LOW, SEALED as u32);
        m.offer_request();
        m.set(register::QUEUE_NOTIFY, 0);
        assert_eq!(m.word(USED + 2), 1);
    }

    #[test]
    fn a_chain_without_end_is_given_back() {
        let mut m = Machine::new();
        m.start(USED);
        m.offer_request();
        m.descriptor(2, (STATUS_AT, 1), NEXT | WRITE, 0);
        m.set(register::QUEUE_NOTIFY, 0);
        assert_eq!((m.word(USED + 2), m.word(USED + 8)), (1, 0));
        assert_eq!(m.word(STATUS_AT), 0xff);
        assert!(!m.is_broken());
    }

    proptest! {
        /// Whatever is written to registers and rings, sealed memory stays what it is.
        #[test]
        fn no_driver_writes_sealed_memory(
            writes in proptest::collection::vec((0u64..0x40, any::<u32>()), 0..32),
            rings in proptest::collection::vec(any::<u8>(), 0x200),
        ) {
            let mut m = Machine::new();
            m.start(USED);
            for at in [DESC, AVAIL] {
                m.memory.write_slice(&rings, GuestAddress(at)).unwrap();
            }
            for (register, value) in writes {
                m.set(4 * register, value);
                m.set(register::QUEUE_NOTIFY, 0);
            }
            let mut page = [1; PAGE as usize];
            m.memory.read_slice(&mut page, GuestAddress(SEALED)).unwrap();
            prop_assert!(page.iter().all(|&byte| byte == 0));
        }
    }
}
