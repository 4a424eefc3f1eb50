// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0

//! The ACPI tables that tell the guest of its CPUs, interrupts, console, power-off and reset.
//!
//! The machine is a classic one (PIC, PIT, fixed PM registers), not a hardware-reduced one: a
//! hardware-reduced Linux does without PIC and PIT, and then cannot calibrate its clocks when the
//! host's KVM offers no paravirtual clock. `devices.rs` implements the registers named here. Locks:
//! none.

use crate::devices::{
    PM_CONTROL,
    PM_EVENT,
    RESET_CONTROL,
    RESET_NOW,
    S5_TYPE,
    SERIAL,
    SERIAL_IRQ, //
};

/// Where the root pointer lies; the other tables follow. The area is where a PC's firmware would
/// be.
pub(crate) const RSDP: u64 = 0xe_0000;

/// Most vCPUs that these tables can describe: an APIC id has eight bits, the last means everybody,
/// one is the I/O APIC's.
pub(crate) const MAX_CPUS: u32 = 254;

const OEM: [u8; 6] = *b"HEKI  ";
const OEM_TABLE: [u8; 8] = *b"HEKIVMM ";
const CREATOR: [u8; 4] = *b"HEKI";
/// Of the tables as their author counts, and of the program that wrote them.
const TABLE_REVISION: u32 = 1;
/// The header that all tables but RSDP and FACS begin with, and where its checksum is.
const HEADER_LEN: usize = 36;
const CHECKSUM: usize = 9;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const SCI: u8 = 9;

/// Address and content of each table, for a guest with `nr_cpus` vCPUs.
pub(crate) fn tables(nr_cpus: u32) -> Vec<(u64, Vec<u8>)> {
    let mut area = Area {
        next: RSDP + 0x40,
        tables: Vec::new(),
    };
    let facs = area.add(facs());
    let dsdt = area.add(dsdt());
    let fadt = area.add(fadt(facs, dsdt));
    let madt = area.add(madt(nr_cpus));
    let xsdt = area.add(xsdt(&[fadt, madt]));
    area.tables.push((RSDP, rsdp(xsdt)));
    area.tables
}

/// Tables one after the other; the FACS wants 64-byte alignment, so all get it.
struct Area {
    next: u64,
    tables: Vec<(u64, Vec<u8>)>,
}

impl Area {
    fn add(&mut self, table: Vec<u8>) -> u64 {
        let addr = self.next;
        self.next = (addr + table.len() as u64).next_multiple_of(64);
        self.tables.push((addr, table));
        addr
    }
}

/// What makes all `bytes` add up to zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte))
}

fn sdt(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let len = (HEADER_LEN + body.len()) as u32;
    let mut table = signature.to_vec();
    table.extend(len.to_le_bytes());
    table.extend([revision, 0]);
    table.extend(OEM);
    table.extend(OEM_TABLE);
    table.extend(TABLE_REVISION.to_le_bytes());
    table.extend(CREATOR);
    table.extend(TABLE_REVISION.to_le_bytes());
    table.extend(body);
    table[CHECKSUM] = checksum(&table);
    table
}

/// The root pointer. Its first 20 bytes have a checksum of their own.
fn rsdp(xsdt: u64) -> Vec<u8> {
    const OLD_LEN: usize = 20;
    const OLD_CHECKSUM: usize = 8;
    const LEN: u32 = 36;
    const CHECKSUM: usize = 32;
    const REVISION: u8 = 2;
    let mut table = b"RSD PTR \0".to_vec();
    table.extend(OEM);
    table.extend([REVISION, 0, 0, 0, 0]);
    table.extend(LEN.to_le_bytes());
    table.extend(xsdt.to_le_bytes());
    table.resize(LEN as usize, 0);
    table[OLD_CHECKSUM] = checksum(&table[..OLD_LEN]);
    table[CHECKSUM] = checksum(&table);
    table
}

/// Where firmware and kernel would hand a lock to each other: nothing is set but length and version.
fn facs() -> Vec<u8> {
    const LEN: u32 = 64;
    const VERSION_AT: usize = 32;
    let mut table = b"FACS".to_vec();
    table.extend(LEN.to_le_bytes());
    table.resize(LEN as usize, 0);
    table[VERSION_AT] = 1;
    table
}

fn xsdt(tables: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|addr| addr.to_le_bytes()).collect();
    sdt(*b"XSDT", 1, &body)
}

/// An AML object with a length in it: `opcode`, the length of all behind the opcode, `body`.
fn aml_sized(opcode: &[u8], body: &[u8]) -> Vec<u8> {
    const ONE_BYTE_LENGTH_MAX: usize = 0x3f;
    let len = body.len() + 1;
    assert!(len <= ONE_BYTE_LENGTH_MAX);
    [opcode, &[len as u8], body].concat()
}

/// AML for "this name has that value".
fn aml_name(name: &[u8; 4], value: &[u8]) -> Vec<u8> {
    const NAME: u8 = 0x08;
    [&[NAME], name.as_slice(), value].concat()
}

/// The definition block, in ACPI Machine Language: the console, and how to power off.
fn dsdt() -> Vec<u8> {
    const ZERO: u8 = 0x00;
    const BYTE: u8 = 0x0a;
    const DWORD: u8 = 0x0c;
    const BUFFER: u8 = 0x11;
    const PACKAGE: u8 = 0x12;
    const DEVICE: [u8; 2] = [0x5b, 0x82];
    const DUAL_NAME: u8 = 0x2e;
    // "PNP0501", compressed as EISA identifiers are.
    const UART_16550: [u8; 4] = [0x41, 0xd0, 0x05, 0x01];

    let [low, high] = SERIAL.to_le_bytes();
    // Ports: 16 bits decoded, lowest and highest base, alignment, length.
    let ports = [0x47, 1, low, high, low, high, 1, 8];
    // Interrupt: six bytes follow; used by the device, on an edge, active high; one number.
    let interrupt = [0x89, 6, 0, 0b0011, 1, SERIAL_IRQ as u8, 0, 0, 0];
    let end_tag = [0x79, 0];
    let resources = [&ports[..], &interrupt, &end_tag].concat();
    let resources_len = [BYTE, resources.len() as u8];
    let resources = aml_sized(&[BUFFER], &[&resources_len[..], &resources].concat());

    let serial = [
        &[DUAL_NAME][..],
        b"_SB_COM1",
        &aml_name(b"_HID", &[&[DWORD], &UART_16550[..]].concat()),
        &aml_name(b"_UID", &[ZERO]),
        &aml_name(b"_CRS", &resources),
    ];
    let sleep_types = aml_sized(&[PACKAGE], &[4, BYTE, S5_TYPE, ZERO, ZERO, ZERO]);
    let mut body = aml_sized(&DEVICE, &serial.concat());
    body.extend(aml_name(b"_S5_", &sleep_types));
    sdt(*b"DSDT", 2, &body)
}

/// The fixed description, ACPI 6.5: fields by their offset in the table, all others zero.
fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    const LEN: usize = 276;
    const REVISION: u8 = 6;
    const MINOR_REVISION: u8 = 5;
    const ENTERPRISE_SERVER: u8 = 4;
    const LEGACY_DEVICES: u16 = 1 << 0;
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_CLOCK: u16 = 1 << 5;
    const WBINVD: u32 = 1 << 0;
    const C1_ON_ALL: u32 = 1 << 2;
    const NO_FIXED_POWER_BUTTON: u32 = 1 << 4;
    const NO_FIXED_SLEEP_BUTTON: u32 = 1 << 5;
    const NO_FIXED_RTC_WAKE: u32 = 1 << 6;
    const RESET_REGISTER: u32 = 1 << 10;
    const HEADLESS: u32 = 1 << 12;
    const FLAGS: u32 = WBINVD
        | C1_ON_ALL
        | NO_FIXED_POWER_BUTTON
        | NO_FIXED_SLEEP_BUTTON
        | NO_FIXED_RTC_WAKE
        | RESET_REGISTER
        | HEADLESS;
    // An I/O port, eight bits at offset 0, accessed as a byte.
    const IO_BYTE: [u8; 4] = [1, 8, 0, 1];

    let mut body = vec![0; LEN - HEADER_LEN];
    let mut set = |offset: usize, value: &[u8]| {
        let at = offset - HEADER_LEN;
        body[at..at + value.len()].copy_from_slice(value);
    };
    set(45, &[ENTERPRISE_SERVER]);
    set(46, &u16::from(SCI).to_le_bytes());
    set(56, &u32::from(PM_EVENT).to_le_bytes());
    set(64, &u32::from(PM_CONTROL).to_le_bytes());
    // Lengths of the two.
    set(88, &[4, 2]);
    // Latencies beyond these limits say that the C2 and C3 states are absent.
    set(96, &101_u16.to_le_bytes());
    set(98, &1001_u16.to_le_bytes());
    set(
        109,
        &(LEGACY_DEVICES | NO_VGA | NO_CMOS_CLOCK).to_le_bytes(),
    );
    set(112, &FLAGS.to_le_bytes());
    set(116, &IO_BYTE);
    set(120, &u64::from(RESET_CONTROL).to_le_bytes());
    set(128, &[RESET_NOW]);
    set(131, &[MINOR_REVISION]);
    set(132, &facs.to_le_bytes());
    set(140, &dsdt.to_le_bytes());
    sdt(*b"FACP", REVISION, &body)
}

fn madt(nr_cpus: u32) -> Vec<u8> {
    const PC_AT_COMPATIBLE: u32 = 1;
    const ENABLED: u8 = 1;
    const ACTIVE_HIGH_LEVEL: u8 = 0b1101;
    const ALL_CPUS: u8 = 0xff;
    let mut body = Vec::new();
    body.extend(LOCAL_APIC.to_le_bytes());
    body.extend(PC_AT_COMPATIBLE.to_le_bytes());
    // Processor-local APICs, their ids in order.
    for id in 0..nr_cpus.min(MAX_CPUS) as u8 {
        body.extend([0, 8, id, id, ENABLED, 0, 0, 0]);
    }
    // The I/O APIC, with the first id that no CPU has.
    let io_apic_id = nr_cpus.min(MAX_CPUS) as u8;
    body.extend([1, 12, io_apic_id, 0]);
    body.extend(IO_APIC.to_le_bytes());
    body.extend([0; 4]);
    // Interrupt source override: the SCI. KVM wires the others one to one, the timer too.
    body.extend([2, 10, 0, SCI, SCI, 0, 0, 0, ACTIVE_HIGH_LEVEL, 0]);
    // Local APIC NMI: pin 1 of every CPU.
    body.extend([4, 6, ALL_CPUS, 0, 0, 1]);
    sdt(*b"APIC", 4, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MIB;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn find(nr_cpus: u32, signature: &[u8]) -> (u64, Vec<u8>) {
        tables(nr_cpus)
            .into_iter()
            .find(|(_, table)| table.starts_with(signature))
            .unwrap()
    }

    #[test]
    fn checksums_and_lengths() {
        for (addr, table) in tables(3) {
            let len = u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize;
            match &table[..4] {
                b"RSD " => {
                    assert_eq!((addr, sum(&table[..20]), sum(&table)), (RSDP, 0, 0));
                    continue;
                }
                b"FACS" => assert_eq!(addr % 64, 0),
                _ => assert_eq!(sum(&table), 0),
            }
            assert_eq!(len, table.len());
        }
    }

    #[test]
    fn tables_fit_and_do_not_overlap() {
        let mut all = tables(MAX_CPUS);
        all.sort();
        for pair in all.windows(2) {
            assert!(pair[0].0 + pair[0].1.len() as u64 <= pair[1].0);
        }
        let (addr, last) = all.last().unwrap();
        assert!(addr + (last.len() as u64) <= MIB);
    }

    #[test]
    fn pointers_lead_to_the_tables() {
        let word =
            |table: &[u8], at: usize| u64::from_le_bytes(table[at..at + 8].try_into().unwrap());
        let (xsdt, fadt) = (find(1, b"XSDT"), find(1, b"FACP"));
        assert_eq!(word(&find(1, b"RSD PTR ").1, 24), xsdt.0);
        assert_eq!(word(&xsdt.1, 36), fadt.0);
        assert_eq!(word(&xsdt.1, 44), find(1, b"APIC").0);
        assert_eq!(word(&fadt.1, 132), find(1, b"FACS").0);
        assert_eq!(word(&fadt.1, 140), find(1, b"DSDT").0);
    }

    #[test]
    fn fadt_names_the_registers() {
        let (_, fadt) = find(1, b"FACP");
        assert_eq!(fadt.len(), 276);
        assert_eq!(fadt[56..60], u32::from(PM_EVENT).to_le_bytes());
        assert_eq!(fadt[64..68], u32::from(PM_CONTROL).to_le_bytes());
        assert_eq!(fadt[116..120], [1, 8, 0, 1]);
        assert_eq!(fadt[120..128], u64::from(RESET_CONTROL).to_le_bytes());
        assert_eq!(fadt[128], RESET_NOW);
    }

    #[test]
    fn madt_lists_every_cpu() {
        for nr_cpus in [1, 2, 17, MAX_CPUS] {
            let (_, madt) = find(nr_cpus, b"APIC");
            let mut rest = &madt[44..];
            let (mut cpus, mut io_apic) = (Vec::new(), None);
            while let [kind, len, ..] = *rest {
                match kind {
                    0 => cpus.push(u32::from(rest[3])),
                    1 => io_apic = Some(u32::from(rest[2])),
                    _ => {}
                }
                rest = &rest[usize::from(len)..];
            }
            assert_eq!(cpus, (0..nr_cpus).collect::<Vec<_>>());
            assert_eq!(io_apic, Some(nr_cpus));
        }
    }
}
