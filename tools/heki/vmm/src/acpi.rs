// SPDX-License-Identifier: GPL-2.0

//! The ACPI tables that tell the guest of its CPUs, interrupts, console, power-off and reset.
//!
//! The machine is a classic one (PIC, PIT, fixed PM registers), not a hardware-reduced one: a
//! hardware-reduced Linux does without PIC and PIT, and then cannot calibrate its clocks when the
//! host's KVM offers no paravirtual clock. `devices.rs` implements the registers named here. Locks:
//! none.

use acpi_tables::aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{
    FADTBuilder,
    Flags,
    PmProfile, //
};
use acpi_tables::gas::{
    AccessSize,
    AddressSpace,
    GAS, //
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::Aml;

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
const OEM_REVISION: u32 = 1;
const HEADER_LEN: u32 = 36;

const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const SCI: u8 = 9;

/// Address and content of each table, for a guest with `nr_cpus` vCPUs.
pub(crate) fn tables(nr_cpus: u32) -> Vec<(u64, Vec<u8>)> {
    let mut area = Area {
        next: RSDP + 0x40,
        tables: Vec::new(),
    };
    let facs = area.add(bytes(&FACS::new()));
    let dsdt = area.add(dsdt());
    let fadt = area.add(fadt(facs, dsdt));
    let madt = area.add(madt(nr_cpus));
    let xsdt = area.add(xsdt(&[fadt, madt]));
    area.tables.push((RSDP, bytes(&Rsdp::new(OEM, xsdt))));
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

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn sdt(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(
        signature,
        HEADER_LEN,
        revision,
        OEM,
        OEM_TABLE,
        OEM_REVISION,
    );
    table.append_slice(body);
    table.as_slice().to_vec()
}

fn xsdt(tables: &[u64]) -> Vec<u8> {
    let body: Vec<u8> = tables.iter().flat_map(|addr| addr.to_le_bytes()).collect();
    sdt(*b"XSDT", 1, &body)
}

fn dsdt() -> Vec<u8> {
    let io = aml::IO::new(SERIAL, SERIAL, 1, 8);
    let irq = aml::Interrupt::new(true, true, false, false, SERIAL_IRQ);
    let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501"));
    let uid = aml::Name::new("_UID".into(), &aml::ZERO);
    let crs = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&io, &irq]));
    let serial = aml::Device::new("_SB_.COM1".into(), vec![&hid, &uid, &crs]);
    let sleep_type = vec![&S5_TYPE as &dyn Aml, &aml::ZERO, &aml::ZERO, &aml::ZERO];
    let power_off = aml::Name::new("_S5_".into(), &aml::Package::new(sleep_type));
    let mut body = bytes(&serial);
    power_off.to_aml_bytes(&mut body);
    sdt(*b"DSDT", 2, &body)
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    const LEGACY_DEVICES: u16 = 1 << 0;
    const NO_VGA: u16 = 1 << 2;
    const NO_CMOS_CLOCK: u16 = 1 << 5;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_64(facs)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = u32::from(PM_EVENT).into();
    fadt.pm1_evt_len = 4;
    fadt.pm1a_cnt_blk = u32::from(PM_CONTROL).into();
    fadt.pm1_cnt_len = 2;
    // Latencies beyond these limits say that the C2 and C3 states are absent.
    fadt.p_lvl2_lat = 101.into();
    fadt.p_lvl3_lat = 1001.into();
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA | NO_CMOS_CLOCK).into();
    fadt.reset_reg = GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        RESET_CONTROL.into(),
    );
    fadt.reset_value = RESET_NOW;
    bytes(&fadt.finalize())
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
