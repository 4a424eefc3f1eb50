// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The devices that this process emulates, all on I/O ports: console, keyboard controller, power
//! management, reset.
//!
//! Called by the vCPU threads (`vcpu.rs`) on port accesses and by the main thread (`vm.rs`) on
//! console input. Locks: both hold the one `Mutex` around [`Devices`]; nothing is locked under it.
//! What the guest writes here is hostile: unknown ports read as all ones and swallow writes.

use std::io;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;
use serde::{
    Deserialize,
    Serialize, //
};
use vm_superio::serial::SerialEvents;
use vm_superio::{
    Serial,
    SerialState,
    Trigger, //
};
use vmm_sys_util::eventfd::EventFd as IrqFd;

use crate::console::Output;
use crate::exit::{
    End,
    ResetCause, //
};

/// First port of the 16550 serial port, and its interrupt.
pub(crate) const SERIAL: u16 = 0x3f8;
/// Interrupt line of the serial port.
pub(crate) const SERIAL_IRQ: u32 = 4;
/// ACPI PM1a event block: status, then enable, 16 bits each.
pub(crate) const PM_EVENT: u16 = 0x600;
/// ACPI PM1a control register, 16 bits.
pub(crate) const PM_CONTROL: u16 = 0x604;
/// Reset control register.
pub(crate) const RESET_CONTROL: u16 = 0xcf9;
/// What ACPI writes there.
pub(crate) const RESET_NOW: u8 = 0x06;
/// Sleep type of the state "soft off".
pub(crate) const S5_TYPE: u8 = 5;

/// Register that says which interrupts the guest wants, and the bit for received data.
const SERIAL_INTERRUPTS: u8 = 1;
const SERIAL_RECEIVE: u8 = 1 << 0;
const SERIAL_LAST: u16 = SERIAL + 7;
const PM_EVENT_LAST: u16 = PM_EVENT + 3;
const PM_CONTROL_LAST: u16 = PM_CONTROL + 1;
const KEYBOARD_DATA: u16 = 0x60;
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET_CPU: u8 = 0xfe;
const RESET_CPU: u8 = 1 << 2;

/// What a port write asks of the machine.
#[derive(Debug)]
pub(crate) enum Request {
    /// Stop in order.
    End(End),
    /// Stop: the console's output has nowhere to go.
    ConsoleLost(io::Error),
}

/// All that the guest may change in the devices.
#[derive(Serialize, Deserialize)]
pub(crate) struct Image {
    #[serde(with = "SerialImage")]
    serial: SerialState,
    pm: PowerManagement,
}

/// The registers of the serial port.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SerialState")]
struct SerialImage {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

/// All emulated devices.
pub(crate) struct Devices {
    serial: Serial<Interrupt, InputWanted, Output>,
    pm: PowerManagement,
    /// The main thread has been told that the guest takes no input, and waits.
    input_held: bool,
}

impl Devices {
    /// Devices as after power-on. `irq` is the serial port's interrupt, `input_wanted` is signalled
    /// when the guest takes input that it did not take before, `output` takes what the guest
    /// prints.
    pub(crate) fn new(irq: IrqFd, input_wanted: Arc<EventFd>, output: Output) -> Self {
        Devices {
            serial: Serial::with_events(Interrupt(irq), InputWanted(input_wanted), output),
            pm: PowerManagement::default(),
            input_held: false,
        }
    }

    /// Back to the state after power-on. Output that was not yet written is kept.
    pub(crate) fn reset(&mut self) -> io::Result<()> {
        let irq = self.serial.interrupt_evt().0.try_clone()?;
        let input_wanted = self.serial.events().0.clone();
        let output = self.serial.writer_mut().hand_over()?;
        *self = Self::new(irq, input_wanted, output);
        Ok(())
    }

    /// What the guest finds in them.
    pub(crate) fn save(&self) -> Image {
        Image {
            serial: self.serial.state(),
            pm: self.pm.clone(),
        }
    }

    /// As they were when `image` was saved.
    pub(crate) fn load(&mut self, image: &Image) -> io::Result<()> {
        let irq = Interrupt(self.serial.interrupt_evt().0.try_clone()?);
        let input_wanted = InputWanted(self.serial.events().0.clone());
        let output = self.serial.writer_mut().hand_over()?;
        self.serial = Serial::from_state(&image.serial, irq, input_wanted, output)
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.pm = image.pm.clone();
        Ok(())
    }

    /// The guest reads `data.len()` bytes from `port`.
    pub(crate) fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        match port {
            // Longer accesses are string instructions: every byte comes from the same port.
            SERIAL..=SERIAL_LAST => data.fill_with(|| self.serial.read((port - SERIAL) as u8)),
            PM_EVENT..=PM_CONTROL_LAST => self.pm.read(port, data),
            // No key was pressed, the controller is ready for a command.
            KEYBOARD_DATA | KEYBOARD_COMMAND => data.fill(0),
            _ => {}
        }
    }

    /// The guest writes `data` to `port`.
    pub(crate) fn write(&mut self, port: u16, data: &[u8]) -> Option<Request> {
        match (port, data) {
            (SERIAL..=SERIAL_LAST, _) => self.write_serial((port - SERIAL) as u8, data),
            (PM_EVENT..=PM_CONTROL_LAST, _) => self.pm.write(port, data),
            (KEYBOARD_COMMAND, [KEYBOARD_RESET_CPU]) => {
                Some(Request::End(End::Reset(ResetCause::I8042)))
            }
            // One byte only: a wider access here is one to PCI configuration space.
            (RESET_CONTROL, [value]) if value & RESET_CPU != 0 => {
                Some(Request::End(End::Reset(ResetCause::ResetControl)))
            }
            _ => None,
        }
    }

    fn write_serial(&mut self, register: u8, data: &[u8]) -> Option<Request> {
        for byte in data {
            match self.serial.write(register, *byte) {
                Ok(()) => {}
                Err(vm_superio::serial::Error::IOError(error)) => {
                    return Some(Request::ConsoleLost(error))
                }
                // A loop-back that overflows, or an interrupt that is already pending many times
                // over: nothing to do.
                Err(_) => {}
            }
        }
        if self.input_held && register == SERIAL_INTERRUPTS && self.takes_input() {
            self.serial.events().wake();
        }
        None
    }

    /// Whether the guest listens. A driver that starts up throws away what came before.
    fn takes_input(&self) -> bool {
        self.serial.state().interrupt_enable & SERIAL_RECEIVE != 0
    }

    /// How many bytes of input the guest can take now. With 0, an event follows when there is room.
    pub(crate) fn input_room(&mut self) -> usize {
        self.input_held = !self.takes_input();
        match self.input_held {
            true => 0,
            false => self.serial.fifo_capacity(),
        }
    }

    /// Passes input to the guest; at most [`Self::input_room`] bytes of it.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        // Lost only in loop-back mode or beyond the room, as on a real line.
        let _ = self.serial.enqueue_raw_bytes(bytes);
    }

    /// Writes buffered output, unless that had to wait for a reader. Whether nothing is left.
    pub(crate) fn try_flush(&mut self) -> io::Result<bool> {
        self.serial.writer_mut().try_drain()
    }
}

/// Raises an interrupt line through KVM.
struct Interrupt(IrqFd);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Tells the main thread that there is room for input again.
struct InputWanted(Arc<EventFd>);

impl InputWanted {
    fn wake(&self) {
        // Fails only when the count is full, and then the main thread is awake.
        let _ = self.0.write(1);
    }
}

impl SerialEvents for InputWanted {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.wake();
    }
}

/// The fixed ACPI registers: nothing ever happens in them but power-off.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PowerManagement {
    enable: u16,
    control: u16,
}

impl PowerManagement {
    const ACPI_MODE: u16 = 1 << 0;
    const SLEEP_TYPE_SHIFT: u32 = 10;
    const SLEEP_TYPE: u16 = 0x7;
    const SLEEP_ENABLE: u16 = 1 << 13;

    /// The registers as the guest sees them, from [`PM_EVENT`] on.
    fn image(&self) -> [u8; 6] {
        let [status_low, status_high] = [0, 0];
        let [enable_low, enable_high] = self.enable.to_le_bytes();
        let [control_low, control_high] = (self.control | Self::ACPI_MODE).to_le_bytes();
        [
            status_low,
            status_high,
            enable_low,
            enable_high,
            control_low,
            control_high,
        ]
    }

    fn read(&self, port: u16, data: &mut [u8]) {
        let image = self.image().into_iter().skip((port - PM_EVENT).into());
        for (byte, value) in data.iter_mut().zip(image) {
            *byte = value;
        }
    }

    fn write(&mut self, port: u16, data: &[u8]) -> Option<Request> {
        let mut slept = false;
        for (port, byte) in (port..=PM_CONTROL_LAST).zip(data) {
            match port {
                PM_CONTROL..=PM_CONTROL_LAST => {
                    self.control = with_byte(self.control, port - PM_CONTROL, *byte);
                    slept |= self.control & Self::SLEEP_ENABLE != 0;
                    self.control &= !Self::SLEEP_ENABLE;
                }
                // Status bits are never set, so there is nothing to clear.
                PM_EVENT..=PM_EVENT_LAST if port >= PM_EVENT + 2 => {
                    self.enable = with_byte(self.enable, port - PM_EVENT - 2, *byte);
                }
                _ => {}
            }
        }
        let sleep_type = (self.control >> Self::SLEEP_TYPE_SHIFT) & Self::SLEEP_TYPE;
        (slept && sleep_type == u16::from(S5_TYPE)).then_some(Request::End(End::PowerOff))
    }
}

/// `word` with byte `index` (0 or 1) replaced.
fn with_byte(word: u16, index: u16, byte: u8) -> u16 {
    let shift = 8 * u32::from(index & 1);
    (word & !(0xff << shift)) | (u16::from(byte) << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::eventfd::EfdFlags;
    use std::os::fd::OwnedFd;

    fn devices() -> Devices {
        let irq = IrqFd::new(libc::EFD_NONBLOCK).unwrap();
        let input_wanted = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let null = std::fs::File::options()
            .write(true)
            .open("/dev/null")
            .unwrap();
        Devices::new(irq, input_wanted, Output::new(OwnedFd::from(null)).unwrap())
    }

    fn end_of(port: u16, data: &[u8]) -> Option<End> {
        match devices().write(port, data) {
            Some(Request::End(end)) => Some(end),
            Some(other) => panic!("{other:?}"),
            None => None,
        }
    }

    #[test]
    fn resets() {
        assert_eq!(end_of(0x64, &[0xfe]), Some(End::Reset(ResetCause::I8042)));
        assert_eq!(end_of(0x64, &[0xf0]), None);
        assert_eq!(
            end_of(0xcf9, &[0x06]),
            Some(End::Reset(ResetCause::ResetControl))
        );
        assert_eq!(
            end_of(0xcf9, &[0x0e]),
            Some(End::Reset(ResetCause::ResetControl))
        );
        assert_eq!(end_of(0xcf9, &[0x02]), None);
        assert_eq!(end_of(0xcf8, &[0, 6, 0, 0x80]), None);
    }

    #[test]
    fn power_off() {
        let s5 = (u16::from(S5_TYPE) << 10) | 1 << 13;
        assert_eq!(end_of(PM_CONTROL, &s5.to_le_bytes()), Some(End::PowerOff));
        assert_eq!(
            end_of(PM_CONTROL + 1, &s5.to_le_bytes()[1..]),
            Some(End::PowerOff)
        );
        assert_eq!(end_of(PM_CONTROL, &(s5 & !(1 << 13)).to_le_bytes()), None);
        assert_eq!(
            end_of(PM_CONTROL, &(3 << 10 | 1u16 << 13).to_le_bytes()),
            None
        );
    }

    #[test]
    fn pm_registers_read_back() {
        let mut devices = devices();
        let mut word = [0; 2];
        devices.read(PM_CONTROL, &mut word);
        assert_eq!(u16::from_le_bytes(word), 1);
        devices.write(PM_EVENT, &[0xff, 0xff, 0x20, 0x01]);
        let mut event = [0; 4];
        devices.read(PM_EVENT, &mut event);
        assert_eq!(event, [0, 0, 0x20, 0x01]);
        devices.write(PM_CONTROL, &s3());
        devices.read(PM_CONTROL, &mut word);
        assert_eq!(u16::from_le_bytes(word), 3 << 10 | 1);
    }

    fn s3() -> [u8; 2] {
        (3 << 10 | 1u16 << 13).to_le_bytes()
    }

    #[test]
    fn any_access_is_survived() {
        let mut devices = devices();
        for port in 0..=u16::MAX {
            for len in [0, 1, 2, 4, 8, 4096] {
                let mut data = vec![0xa5; len];
                devices.read(port, &mut data);
                let _ = devices.write(port, &data);
            }
        }
    }

    #[test]
    fn unknown_ports_read_as_ones() {
        let mut data = [0; 4];
        devices().read(0x1234, &mut data);
        assert_eq!(data, [0xff; 4]);
        devices().read(PM_CONTROL_LAST, &mut data);
        assert_eq!(data, [0, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn serial_takes_input_up_to_its_room() {
        let mut devices = listening();
        let room = devices.input_room();
        devices.input(&vec![b'x'; room + 9]);
        assert_eq!(devices.input_room(), 0);
        devices.input(b"more");
        let mut byte = [0];
        devices.read(SERIAL, &mut byte);
        assert_eq!(byte, *b"x");
        devices.reset().unwrap();
        devices.write(SERIAL + 1, &[SERIAL_RECEIVE]);
        assert_eq!(devices.input_room(), room);
    }

    #[test]
    fn an_image_has_all_of_it() {
        let mut from = listening();
        from.input(b"ab");
        from.write(SERIAL + 7, b"s");
        from.write(PM_EVENT, &[0, 0, 0x20, 0x01]);
        let image = serde_json::to_string(&from.save()).unwrap();
        let mut to = devices();
        to.load(&serde_json::from_str(&image).unwrap()).unwrap();
        let mut byte = [0];
        for expected in [b"a", b"b"] {
            to.read(SERIAL, &mut byte);
            assert_eq!(&byte, expected);
        }
        to.read(SERIAL + 7, &mut byte);
        assert_eq!(&byte, b"s");
        let mut event = [0; 4];
        to.read(PM_EVENT, &mut event);
        assert_eq!(event, [0, 0, 0x20, 0x01]);
        assert!(to.input_room() > 0, "it listens");
    }

    fn listening() -> Devices {
        let mut devices = devices();
        devices.write(SERIAL + 1, &[SERIAL_RECEIVE]);
        devices
    }

    #[test]
    fn input_waits_for_the_driver() {
        let mut devices = devices();
        let woken = |devices: &Devices| devices.serial.events().0.read().is_ok();
        assert_eq!(devices.input_room(), 0);
        assert!(!woken(&devices));
        devices.write(SERIAL + 1, &[SERIAL_RECEIVE]);
        assert!(woken(&devices));
        assert!(devices.input_room() > 0);
        devices.write(SERIAL + 1, &[0]);
        devices.write(SERIAL + 1, &[SERIAL_RECEIVE]);
        assert!(!woken(&devices), "nobody waits");
        devices.input(b"x");
        devices.read(SERIAL, &mut [0]);
        assert!(woken(&devices));
    }
}
