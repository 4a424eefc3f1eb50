/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * Heki: guest kernel integrity enforced by the hypervisor. The one truth of the ABI.
 *
 * Guest to host: hypercall KVM_HC_HEKI, operation in a0, guest physical address
 * of a block in a1, its length in bytes in a2, zero in a3.
 * VMM to host: a KVM device of type KVM_DEV_TYPE_HEKI and its attributes.
 *
 * All fields are little-endian and fixed-size; what is reserved must be zero.
 * Described field by field in Documentation/virt/kvm/x86/heki-abi.rst.
 */
#ifndef _UAPI_LINUX_HEKI_H
#define _UAPI_LINUX_HEKI_H

#include <linux/types.h>

/*
 * Numbers far above what upstream has handed out, so that neither side takes
 * a stranger's call for its own. The hypercall number is "HEKI" in ASCII.
 */
#define KVM_HC_HEKI			0x48454b49
#define KVM_DEV_TYPE_HEKI		0x48

#define HEKI_ABI_VERSION		1

/* Operations (a0). */
#define HEKI_OP_QUERY			0
#define HEKI_OP_SEAL			1

/* Bounds of one SEAL request. */
#define HEKI_MAX_REQUEST_BYTES		131072
#define HEKI_MAX_RANGES			4096
#define HEKI_MAX_PINS			8

/* Life-cycle states of a VM. */
#define HEKI_STATE_OFF			0
#define HEKI_STATE_OPEN			1
#define HEKI_STATE_SEALED		2

/* Protections. */
#define HEKI_PROT_WRITE			(1 << 0)	/* sealed memory cannot be written */
#define HEKI_PROT_EXEC			(1 << 1)	/* supervisor mode runs listed memory only */
#define HEKI_PROT_CR			(1 << 2)	/* CR0 and CR4 bits can be pinned */

/**
 * struct heki_query - what HEKI_OP_QUERY writes into guest memory
 * @version:	HEKI_ABI_VERSION of the host
 * @state:	HEKI_STATE_*
 * @available:	HEKI_PROT_* that this VM may ask for on this host
 * @held:	HEKI_PROT_* in force now
 * @cr0_pinnable: CR0 bits that the host can pin
 * @cr4_pinnable: CR4 bits that the host can pin
 * @max_bytes:	largest SEAL request, in bytes
 * @max_ranges:	most ranges in one SEAL request
 * @max_pins:	most pins in one SEAL request
 * @reserved:	zero
 */
struct heki_query {
	__u32 version;
	__u32 state;
	__u32 available;
	__u32 held;
	__u64 cr0_pinnable;
	__u64 cr4_pinnable;
	__u32 max_bytes;
	__u32 max_ranges;
	__u32 max_pins;
	__u32 reserved;
};

/* Flags of a SEAL request. */
#define HEKI_SEAL_EXEC			(1 << 0)	/* ranges with HEKI_EXEC are an allow-list */
#define HEKI_SEAL_FLAGS			HEKI_SEAL_EXEC

/* Rights of a range. Reading is always allowed; execution means supervisor mode. */
#define HEKI_WRITE			(1 << 0)
#define HEKI_EXEC			(1 << 1)
#define HEKI_RIGHTS			(HEKI_WRITE | HEKI_EXEC)

/* What a range is, for logs and later requests; it grants nothing. */
#define HEKI_KIND_OTHER			0
#define HEKI_KIND_TEXT			1
#define HEKI_KIND_RODATA		2
#define HEKI_KIND_MODULE_TEXT		3
#define HEKI_KIND_MODULE_RODATA		4
#define HEKI_KIND_IDT			5
#define HEKI_KIND_TRAMPOLINE		6
#define HEKI_KIND_COUNT			7

/**
 * struct heki_seal - header of a SEAL request
 * @version:	HEKI_ABI_VERSION
 * @flags:	HEKI_SEAL_*
 * @nr_ranges:	number of struct heki_range that follow the header
 * @nr_pins:	number of struct heki_pin that follow the ranges
 *
 * The request's length is exactly the header and its arrays.
 */
struct heki_seal {
	__u32 version;
	__u32 flags;
	__u32 nr_ranges;
	__u32 nr_pins;
};

/**
 * struct heki_range - guest physical memory and the rights it keeps
 * @gpa:	first byte, page aligned
 * @len:	length in bytes, page aligned, not zero
 * @rights:	HEKI_WRITE or HEKI_EXEC, not both, or zero
 * @kind:	HEKI_KIND_*
 */
struct heki_range {
	__u64 gpa;
	__u64 len;
	__u32 rights;
	__u32 kind;
};

/* Registers that can be pinned. */
#define HEKI_REG_CR0			0
#define HEKI_REG_CR4			4

/**
 * struct heki_pin - bits of a register that stay set
 * @reg:	HEKI_REG_*
 * @reserved:	zero
 * @mask:	the bits; each is set on the vCPU that asks
 */
struct heki_pin {
	__u32 reg;
	__u32 reserved;
	__u64 mask;
};

/*
 * Attribute group of the KVM device. Creating the device opts the VM in; it
 * must come before the first vCPU.
 */
#define KVM_DEV_HEKI_CTRL		0
#define   KVM_DEV_HEKI_RESET		0	/* set: back to Open; every vCPU must be stopped */

#endif /* _UAPI_LINUX_HEKI_H */
