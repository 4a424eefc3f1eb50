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
#define KVM_EXIT_HEKI			0x48454b49

#define HEKI_ABI_VERSION		2

/* Operations (a0). */
#define HEKI_OP_QUERY			0
#define HEKI_OP_SEAL			1
#define HEKI_OP_PATCH			2
#define HEKI_OP_GRANT			3
#define HEKI_OP_RELEASE			4
#define HEKI_OP_FROZEN			5
#define HEKI_OP_QUERY_PIN		6
#define HEKI_OP_KEXEC			7

/* Bounds of one SEAL request. */
#define HEKI_MAX_REQUEST_BYTES		262144
#define HEKI_MAX_RANGES			4096
#define HEKI_MAX_PINS			64
#define HEKI_MAX_AREAS			1024

/* Bounds of later requests, and of what a seal may list. */
#define HEKI_MAX_PATCHES		256	/* instructions in one PATCH */
#define HEKI_MAX_GRANT_PAGES		512	/* pages in one GRANT or RELEASE */
#define HEKI_MAX_SITES			131072	/* jump labels and static calls of a VM */
#define HEKI_MAX_FROZEN			32	/* HEKI_AREA_FROZEN in one SEAL */
#define HEKI_MAX_SCAN_BYTES		268435456 /* text searched for trampolines at the seal */
#define HEKI_MAX_KEXEC_CHUNK		1048576	/* bytes in one KEXEC */
#define HEKI_MAX_KEXEC_BYTES		268435456 /* bytes of a kernel that KEXEC loads */
#define HEKI_MAX_LEARNED		1024	/* pages, once for each right, that a VM learns */

/* Life-cycle states of a VM. */
#define HEKI_STATE_OFF			0
#define HEKI_STATE_OPEN			1
#define HEKI_STATE_SEALED		2

/* Protections. */
#define HEKI_PROT_WRITE			(1 << 0)	/* sealed memory cannot be written */
#define HEKI_PROT_EXEC			(1 << 1)	/* supervisor mode runs listed memory only */
#define HEKI_PROT_CR			(1 << 2)	/* CR0 and CR4 bits can be pinned */
#define HEKI_PROT_MSR			(1 << 3)	/* XCR0 and MSRs can be pinned */
#define HEKI_PROT_DT			(1 << 4)	/* descriptor-table registers can */
#define HEKI_PROT_ALL			0x1f

/* What PATCH serves, and what it can tell of the target of a call. */
#define HEKI_PATCH_JUMP_LABEL		(1 << 0)
#define HEKI_PATCH_STATIC_CALL		(1 << 1)
#define HEKI_PATCH_FTRACE		(1 << 2)
#define HEKI_PATCH_PROBE		(1 << 3)	/* breakpoints of the VMM's list */
#define HEKI_TARGET_SYMBOL		(1 << 8)	/* a function of the VMM's list */
#define HEKI_TARGET_HASH		(1 << 9)	/* of the same type, by its kCFI hash */
#define HEKI_TARGET_ENDBR		(1 << 10)	/* begins with ENDBR64 */

/* In the same field: the VMM takes KEXEC. */
#define HEKI_SERVES_KEXEC		(1 << 16)

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
 * @patch:	HEKI_PATCH_* and HEKI_TARGET_*: before the seal those that this
 *		VM may have, after it those that it has. And HEKI_SERVES_KEXEC
 * @learning:	1 << HEKI_CLASS_* of each class of denials that is reported and
 *		allowed: what it would hold is not in @held
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
	__u32 patch;
	__u32 learning;
	__u32 reserved;
};

/* Flags of a SEAL request. */
#define HEKI_SEAL_EXEC			(1 << 0)	/* ranges with HEKI_EXEC are an allow-list */
#define HEKI_SEAL_FLAGS			HEKI_SEAL_EXEC

/* Rights of a range. Reading is always allowed; execution means supervisor mode. */
#define HEKI_WRITE			(1 << 0)
#define HEKI_EXEC			(1 << 1)
#define HEKI_RIGHTS			(HEKI_WRITE | HEKI_EXEC)

/* What a range is: later requests go by it; by itself it grants nothing. */
#define HEKI_KIND_OTHER			0
#define HEKI_KIND_TEXT			1
#define HEKI_KIND_RODATA		2
#define HEKI_KIND_MODULE_TEXT		3
#define HEKI_KIND_MODULE_RODATA		4
#define HEKI_KIND_IDT			5
#define HEKI_KIND_TRAMPOLINE		6
#define HEKI_KIND_POOL			7	/* executable, nothing but INT3 in it */
#define HEKI_KIND_FTRACE		8	/* an ftrace trampoline; the host finds it */
#define HEKI_KIND_COUNT			9

/**
 * struct heki_seal - header of a SEAL request
 * @version:	HEKI_ABI_VERSION
 * @flags:	HEKI_SEAL_*
 * @nr_ranges:	number of struct heki_range that follow the header
 * @nr_pins:	number of struct heki_pin that follow the ranges
 * @nr_areas:	number of struct heki_area that follow the pins
 * @reserved:	zero
 *
 * The request's length is exactly the header and its arrays.
 */
struct heki_seal {
	__u32 version;
	__u32 flags;
	__u32 nr_ranges;
	__u32 nr_pins;
	__u32 nr_areas;
	__u32 reserved;
};

/**
 * struct heki_range - guest physical memory and the rights it keeps
 * @gpa:	first byte, page aligned
 * @len:	length in bytes, page aligned, not zero
 * @va:		where the guest kernel runs or reads it, page aligned; zero if
 *		that never matters. Requests name instructions by this address.
 * @rights:	HEKI_WRITE or HEKI_EXEC, not both, or zero
 * @kind:	HEKI_KIND_*
 */
struct heki_range {
	__u64 gpa;
	__u64 len;
	__u64 va;
	__u32 rights;
	__u32 kind;
};

/* Registers that can be pinned. */
#define HEKI_REG_CR0			0
#define HEKI_REG_CR4			4
#define HEKI_REG_XCR0			16
#define HEKI_REG_MSR			17
#define HEKI_REG_IDTR			18	/* index 0: base, 1: limit */
#define HEKI_REG_GDTR			19	/* likewise */
#define HEKI_REG_LDTR			20	/* index 0: selector */
#define HEKI_REG_TR			21	/* index 0: base, 1: limit, 2: selector */

/**
 * struct heki_pin - bits of a register that stay as they are
 * @reg:	HEKI_REG_*
 * @index:	number of the MSR, part of a descriptor-table register, else zero
 * @mask:	the bits. Those of CR0 and CR4 are set on the vCPU that asks, and
 *		stay set. Those of others keep the value that they have
 *		there; of a register of which each CPU has its own value, that
 *		of each CPU. See Documentation/virt/kvm/x86/heki-registers.rst.
 *
 * It is also the block of HEKI_OP_QUERY_PIN: the guest writes @reg and @index,
 * the host all of it. @mask is then what can be pinned, after the seal what is.
 * KVM_DEV_HEKI_PIN tells the VMM the same.
 */
struct heki_pin {
	__u32 reg;
	__u32 index;
	__u64 mask;
};

/*
 * What an area is. Tables may come several times (the kernel's and one for each
 * module) and so may frozen keys, all others once. Where @len is zero only the
 * address counts.
 */
#define HEKI_AREA_JUMP_TABLE		0	/* struct jump_entry, in sealed memory */
#define HEKI_AREA_STATIC_CALL_SITES	1	/* struct static_call_site, in sealed memory */
#define HEKI_AREA_RO_AFTER_INIT		2	/* keys in here never change again */
#define HEKI_AREA_STATIC_CALL_TEXT	3	/* trampolines of static calls */
#define HEKI_AREA_FTRACE_CALLER		4	/* template of a trampoline */
#define HEKI_AREA_FTRACE_REGS_CALLER	5	/* the one that saves registers */
#define HEKI_AREA_FTRACE_CALL		6	/* in 4: the call of the tracer */
#define HEKI_AREA_FTRACE_OP_PTR		7	/* in 4: the load of the ftrace_ops */
#define HEKI_AREA_FTRACE_REGS_CALL	8	/* in 5: the call of the tracer */
#define HEKI_AREA_FTRACE_REGS_OP_PTR	9	/* in 5: the load of the ftrace_ops */
#define HEKI_AREA_FTRACE_REGS_JMP	10	/* in 5: the JNZ that copies lose */
#define HEKI_AREA_FTRACE_STUB		11	/* a function of the type of tracers */
#define HEKI_AREA_RETURN_THUNK		12	/* x86_return_thunk, if returns jump there */
#define HEKI_AREA_STATIC_RETURN		13	/* __static_call_return */
#define HEKI_AREA_STATIC_RETURN0	14	/* __static_call_return0 */
#define HEKI_AREA_WARN_TRAP		15	/* __WARN_trap */
#define HEKI_AREA_SPIN_UNLOCK		16	/* the callee of the inlined unlock */
#define HEKI_AREA_CFI_HASH		17	/* @va: bytes from a type's hash to the function */
#define HEKI_AREA_ENDBR			18	/* functions begin with ENDBR64 */
#define HEKI_AREA_IMAGE			19	/* the kernel's image, in one piece of memory */
#define HEKI_AREA_FTRACE_LIST		20	/* the tracer that calls all others */
#define HEKI_AREA_MCOUNT		21	/* addresses of a module's ftrace sites, in sealed memory */
#define HEKI_AREA_CALL_DEPTH		22	/* what pads that track the depth of calls hold */
#define HEKI_AREA_FROZEN		23	/* a key, or the trampoline of a static call, that never changes */
#define HEKI_AREA_ITS			24	/* indirect branches go through thunks of their own */
#define HEKI_AREA_COUNT			25

/**
 * struct heki_area - what the host must know of sealed text to judge a change of it
 * @kind:	HEKI_AREA_*
 * @reserved:	zero
 * @va:		first byte
 * @len:	length in bytes, or zero
 */
struct heki_area {
	__u32 kind;
	__u32 reserved;
	__u64 va;
	__u64 len;
};

/* Longest instruction that PATCH changes: Jcc rel32. */
#define HEKI_MAX_INSN			6

/*
 * A slot of kprobes in a page of HEKI_KIND_POOL: so many bytes, at a multiple of
 * as many from the page's start. PATCH changes it as a whole.
 */
#define HEKI_SLOT_BYTES			15

/**
 * struct heki_patch - header of a PATCH request
 * @version:	HEKI_ABI_VERSION
 * @nr_sites:	number of struct heki_site that follow, 1 to HEKI_MAX_PATCHES
 *
 * The sites ascend by address and share no byte. All of them change, with every
 * vCPU out of the guest, or none does.
 */
struct heki_patch {
	__u32 version;
	__u32 nr_sites;
};

/**
 * struct heki_site - one instruction to replace by another of the same length
 * @va:		its address, in a range that was sealed with HEKI_EXEC
 * @len:	its length in bytes; 1 for a breakpoint, HEKI_SLOT_BYTES for a slot,
 *		that of HEKI_AREA_CALL_DEPTH for a pad
 * @old:	what must stand there, zero after @len
 * @new:	what shall stand there, zero after @len
 */
struct heki_site {
	__u64 va;
	__u64 len;
	__u8 old[16];
	__u8 new[16];
};

/**
 * struct heki_grant - header of a GRANT or a RELEASE request
 * @version:	HEKI_ABI_VERSION
 * @nr_ranges:	number of struct heki_range that follow, with HEKI_MAX_GRANT_PAGES
 *		pages at most
 *
 * GRANT: each range, with HEKI_EXEC and HEKI_KIND_POOL, loses the right to be
 * written, and gets the right to run if its content passes: all INT3, or a copy
 * of an ftrace template. RELEASE: each range, without rights, loses the right to
 * run and gets the right to be written; it must be a pool page or a trampoline.
 */
struct heki_grant {
	__u32 version;
	__u32 nr_ranges;
};

#define HEKI_FROZEN_ENTRIES		62

/**
 * struct heki_frozen - what HEKI_OP_FROZEN reads and writes in guest memory
 * @version:	HEKI_ABI_VERSION
 * @first:	the first entry that the guest wants to know
 * @nr:		how many the host wrote, HEKI_FROZEN_ENTRIES at most
 * @total:	how many there are
 * @va:		addresses of keys and trampolines that the VMM froze, ascending, zero
 *		after @nr
 */
struct heki_frozen {
	__u32 version;
	__u32 first;
	__u32 nr;
	__u32 total;
	__u64 va[62];
};

/* Flags of a KEXEC request. */
#define HEKI_KEXEC_FIRST		(1 << 0)	/* the kernel begins; what was kept before is gone */
#define HEKI_KEXEC_LAST			(1 << 1)	/* the kernel ends; the VMM judges it */
#define HEKI_KEXEC_START		(1 << 2)	/* alone: start what is kept */

/**
 * struct heki_kexec - a KEXEC request
 * @version:	HEKI_ABI_VERSION
 * @flags:	HEKI_KEXEC_*
 * @gpa:	first byte of this part of the kernel's file, page aligned
 * @len:	its length in bytes, 1 to HEKI_MAX_KEXEC_CHUNK
 * @offset:	where it lies in the file, zero with HEKI_KEXEC_FIRST and only then
 *
 * The VMM copies the parts, in their order, and keeps the kernel if it knows the
 * whole. With HEKI_KEXEC_START the other fields are zero.
 */
struct heki_kexec {
	__u32 version;
	__u32 flags;
	__u64 gpa;
	__u64 len;
	__u64 offset;
};

/*
 * Attribute group of the KVM device. Creating the device opts the VM in; it
 * must come before the first vCPU.
 */
#define KVM_DEV_HEKI_CTRL		0
#define   KVM_DEV_HEKI_RESET		0	/* set: back to Open; every vCPU must be stopped */
#define   KVM_DEV_HEKI_PROFILE		1	/* set: struct heki_profile, before the first vCPU */
#define   KVM_DEV_HEKI_CAPS		2	/* get: struct heki_caps */
#define   KVM_DEV_HEKI_POLICY		3	/* get; set, once and before the first vCPU: struct heki_policy */
#define   KVM_DEV_HEKI_RESUME		4	/* set: ends a pause */
#define   KVM_DEV_HEKI_STATE		5	/* get; set, before a vCPU runs: struct heki_buffer */
#define   KVM_DEV_HEKI_RANGES		6	/* get: struct heki_ranges */
#define   KVM_DEV_HEKI_PIN		7	/* get: struct heki_pin, of the first vCPU */

/**
 * struct heki_buffer - memory of the VMM for KVM_DEV_HEKI_STATE
 * @data:	address of the saved state, or of room for it
 * @len:	its length in bytes. Get writes how many bytes there are; with zero here
 *		it writes nothing else.
 */
struct heki_buffer {
	__u64 data;
	__u64 len;
};

#define HEKI_SAVED_MAGIC		0x54415453494b4548	/* "HEKISTAT" */
#define HEKI_SAVED_VERSION		1
#define HEKI_MAX_STATE_BYTES		4194304
#define HEKI_NR_COUNTERS		11

/**
 * struct heki_saved - header of a saved state
 * @magic:	HEKI_SAVED_MAGIC
 * @version:	HEKI_SAVED_VERSION
 * @nr_records:	number of records that follow
 * @len:	length in bytes of all, this header included
 *
 * Records follow, each a struct heki_record and its content: in the order of
 * their kinds, each once. A VM that is open has LIFE and COUNTERS only, one that is
 * sealed has all.
 */
struct heki_saved {
	__u64 magic;
	__u32 version;
	__u32 nr_records;
	__u64 len;
};

#define HEKI_RECORD_LIFE		1	/* struct heki_life */
#define HEKI_RECORD_SEAL		2	/* the SEAL request that has the same effect */
#define HEKI_RECORD_VALUES		3	/* __u64 for each pin of it */
#define HEKI_RECORD_SITES		4	/* struct heki_place, ascending */
#define HEKI_RECORD_PROBES		5	/* struct heki_probe, ascending */
#define HEKI_RECORD_COUNTERS		6	/* struct heki_counters, ascending by vCPU */

/**
 * struct heki_record - header of a record
 * @kind:	HEKI_RECORD_*
 * @reserved:	zero
 * @len:	length in bytes of the content that follows
 */
struct heki_record {
	__u32 kind;
	__u32 reserved;
	__u64 len;
};

/**
 * struct heki_life - where a VM is in its life
 * @state:	HEKI_STATE_OPEN or HEKI_STATE_SEALED
 * @reserved:	zero
 * @text_va:	where the kernel's text begins, if the VMM's profile was found to be of
 *		it, else zero
 */
struct heki_life {
	__u32 state;
	__u32 reserved;
	__u64 text_va;
};

/* What an instruction may become. */
#define HEKI_RULE_FROZEN		0	/* nothing else */
#define HEKI_RULE_JUMP_LABEL		1	/* a NOP, or a jump to @target */
#define HEKI_RULE_CALL			2	/* a static call */
#define HEKI_RULE_TAIL_CALL		3	/* the last thing of its function */
#define HEKI_RULE_FTRACE		4	/* a NOP, or a call of ftrace */

/**
 * struct heki_place - an instruction that may change
 * @va:		its address
 * @target:	jump label: where it jumps to; static call: a function of the type of
 *		its callees, or zero; else zero
 * @len:	its length in bytes: 2, 5 or 6
 * @rule:	HEKI_RULE_*
 */
struct heki_place {
	__u64 va;
	__u64 target;
	__u32 len;
	__u32 rule;
};

/**
 * struct heki_probe - an instruction on which a breakpoint may be put
 * @va:		its address
 * @code:	what stood there at the seal, HEKI_SLOT_BYTES, then zero
 */
struct heki_probe {
	__u64 va;
	__u8 code[16];
};

/**
 * struct heki_counters - the counters of a vCPU
 * @vcpu:	its ID
 * @reserved:	zero
 * @value:	heki_query, heki_seal, heki_refused, heki_denied_write, heki_denied_exec,
 *		heki_denied_cr, heki_patch, heki_patched, heki_grant, heki_denied_patch,
 *		heki_denied_msr
 */
struct heki_counters {
	__u32 vcpu;
	__u32 reserved;
	__u64 value[11];
};

/**
 * struct heki_ranges - header of what KVM_DEV_HEKI_RANGES reads
 * @nr:		set by the VMM: how many struct heki_range have room behind the
 *		header; by the host: how many there are, HEKI_MAX_RANGES at most
 * @state:	set to zero by the VMM; by the host: HEKI_STATE_OPEN or
 *		HEKI_STATE_SEALED
 *
 * The ranges ascend by address and share no byte. What no range lists may be
 * written. None before the seal.
 */
struct heki_ranges {
	__u32 nr;
	__u32 state;
};

/* Bounds of a profile. */
#define HEKI_MAX_PROFILE_ENTRIES	262144	/* of each other array */
#define HEKI_MAX_PROBES			1024
#define HEKI_MAX_BUILD_ID		32

/**
 * struct heki_profile - what the VMM knows of the guest's kernel from its vmlinux
 * @version:	HEKI_ABI_VERSION
 * @nr_functions: number of function entries
 * @nr_calls:	number of ftrace sites
 * @nr_frozen:	number of static keys, keys of static calls and their trampolines
 *		that must not change
 * @nr_probes:	number of addresses at which a breakpoint may be put, HEKI_MAX_PROBES
 *		at most
 * @reserved:	zero
 * @base:	address of _text in the file
 * @text_len:	bytes from _text to the end of text, rounded up to a page
 * @build_id_offset: where the build ID lies, in bytes from _text
 * @build_id_len: its length in bytes, zero if there is none
 * @build_id:	the build ID, zero after its length
 *
 * Four arrays of __u32 follow, in the order of their numbers: bytes from _text,
 * strictly ascending.
 */
struct heki_profile {
	__u32 version;
	__u32 nr_functions;
	__u32 nr_calls;
	__u32 nr_frozen;
	__u32 nr_probes;
	__u32 reserved;
	__u64 base;
	__u64 text_len;
	__u32 build_id_offset;
	__u32 build_id_len;
	__u8 build_id[32];
};

/* Classes of denials: what the guest tried. */
#define HEKI_CLASS_WRITE		0	/* to write sealed memory */
#define HEKI_CLASS_EXEC			1	/* to run unlisted memory in supervisor mode */
#define HEKI_CLASS_REGISTER		2	/* to change what is pinned */
#define HEKI_CLASS_PATCH		3	/* a PATCH, GRANT or RELEASE against the rules */
#define HEKI_CLASS_COUNT		4

/* What a denial does, besides the error that the guest gets, but for the last. */
#define HEKI_ACTION_GP			0	/* nothing */
#define HEKI_ACTION_EXIT		1	/* KVM_EXIT_HEKI */
#define HEKI_ACTION_PAUSE		2	/* the same, and no vCPU runs until KVM_DEV_HEKI_RESUME */
#define HEKI_ACTION_LEARN		3	/* KVM_EXIT_HEKI, and what was denied happens */
#define HEKI_ACTION_COUNT		4

/**
 * struct heki_caps - what this host can do for this VM
 * @version:	HEKI_ABI_VERSION
 * @protections: HEKI_PROT_* that can be enforced. HEKI_PROT_EXEC, HEKI_PROT_MSR and
 *		HEKI_PROT_DT need vCPUs without VMX and SVM, too.
 * @cr0_pinnable: CR0 bits that can be pinned
 * @cr4_pinnable: CR4 bits that can be pinned
 * @patch:	HEKI_PATCH_* and HEKI_TARGET_* of a VM with a profile
 * @consent:	1 << HEKI_OP_* of each operation that a policy can ask consent for
 * @classes:	1 << HEKI_CLASS_* of each class of denials that can exit
 * @actions:	1 << HEKI_ACTION_* of each action that a policy can name
 */
struct heki_caps {
	__u32 version;
	__u32 protections;
	__u64 cr0_pinnable;
	__u64 cr4_pinnable;
	__u32 patch;
	__u32 consent;
	__u32 classes;
	__u32 actions;
};

/**
 * struct heki_policy - what the guest may do, and what the VMM wants to hear of
 * @version:	HEKI_ABI_VERSION
 * @allowed:	HEKI_PROT_* that the guest may ask for. HEKI_PROT_EXEC needs
 *		HEKI_PROT_WRITE and HEKI_PROT_CR: what runs is not written, and SMEP
 *		is pinned.
 * @consent:	1 << HEKI_OP_* of each operation that the VMM is asked about: SEAL,
 *		PATCH, GRANT, RELEASE and KEXEC can be. Without its bit there is no
 *		KEXEC.
 * @write:	HEKI_ACTION_* of HEKI_CLASS_WRITE
 * @exec:	HEKI_ACTION_* of HEKI_CLASS_EXEC
 * @reg:	HEKI_ACTION_* of HEKI_CLASS_REGISTER
 * @patch:	HEKI_ACTION_* of HEKI_CLASS_PATCH
 * @reserved:	zero
 *
 * A VM without a policy may have all protections, needs no consent and exits
 * for nothing.
 *
 * A class with HEKI_ACTION_LEARN protects nothing. Where HEKI_PROT_EXEC is
 * allowed, @exec learns if any other does; @write learns if @patch does.
 */
struct heki_policy {
	__u32 version;
	__u32 allowed;
	__u32 consent;
	__u32 write;
	__u32 exec;
	__u32 reg;
	__u32 patch;
	__u32 reserved;
};

/* Kinds of KVM_EXIT_HEKI. */
#define HEKI_EXIT_REQUEST		1	/* the guest asks; write @answer */
#define HEKI_EXIT_DENIAL		2	/* the guest was denied something */
#define HEKI_EXIT_PAUSED		3	/* the VM is paused */

/* Flags of KVM_EXIT_HEKI: which fields of a denial mean something. */
#define HEKI_EXIT_HAS_GPA		(1 << 0)
#define HEKI_EXIT_HAS_VA		(1 << 1)
#define HEKI_EXIT_HAS_REG		(1 << 2)	/* @reg, @index, @bits and @value */
#define HEKI_EXIT_IS_PAUSE		(1 << 3)	/* this denial paused the VM */
#define HEKI_EXIT_IS_LEARNED		(1 << 4)	/* it only would have been one: it happens */

/* Why something was denied. */
#define HEKI_REASON_SEALED		0	/* the page was sealed against writes */
#define HEKI_REASON_NOT_EXECUTABLE	1	/* the page was not granted execution */
#define HEKI_REASON_PAGE_WALK		2	/* the CPU writes a page table that is sealed */
#define HEKI_REASON_PINNED		3	/* the bits are pinned */
#define HEKI_REASON_UNLISTED		4	/* no instruction there may change */
#define HEKI_REASON_FROZEN		5	/* its key must not change */
#define HEKI_REASON_FORM		6	/* no instruction there has such bytes */
#define HEKI_REASON_TARGET		7	/* it may not go there */
#define HEKI_REASON_STALE		8	/* other bytes stand there */
#define HEKI_REASON_CONTENT		9	/* a page that is neither empty nor a trampoline */
#define HEKI_REASON_KVM_WRITER		10	/* KVM was to write a sealed page; in traces only */

/**
 * struct heki_exit - KVM_EXIT_HEKI, in the union of struct kvm_run
 * @kind:	HEKI_EXIT_*: request, denial or paused
 * @flags:	HEKI_EXIT_HAS_* and HEKI_EXIT_IS_*
 * @vcpu:	the ID of the vCPU
 * @cpl:	its privilege level
 * @rip:	its instruction pointer
 * @op:		request: HEKI_OP_*
 * @answer:	request: KVM_EPERM. The VMM writes 0 to allow, or what the guest gets:
 *		KVM_EPERM, KVM_E2BIG, KVM_EINVAL or KVM_EOPNOTSUPP. All else denies.
 * @seal_flags:	SEAL: HEKI_SEAL_*
 * @nr_ranges:	SEAL, GRANT, RELEASE: number of ranges
 * @nr_pins:	SEAL: number of pins
 * @nr_sites:	PATCH: number of instructions
 * @len:	request: its length in bytes
 * @denied:	denial: HEKI_CLASS_*
 * @reason:	denial: HEKI_REASON_*
 * @gpa:	denial: guest physical address of an access; KEXEC: of the part
 * @va:		denial: guest virtual address of the access, as far as hardware says,
 *		or of an instruction or page that was to change
 * @bits:	denial: what is pinned and would have changed
 * @reg:	denial: HEKI_REG_*
 * @index:	denial: number of the MSR, part of a descriptor-table register, or zero
 * @kexec_flags: KEXEC: HEKI_KEXEC_*
 * @kexec_len:	KEXEC: length of the part in bytes
 * @offset:	KEXEC: where the part lies in the kernel's file
 * @value:	denial: what the register would hold, zero of a task switch
 *
 * The host works on a copy of a request that it made before the exit. What is
 * written here, but for @answer, has no effect.
 */
struct heki_exit {
	__u32 kind;
	__u32 flags;
	__u32 vcpu;
	__u32 cpl;
	__u64 rip;
	__u32 op;
	__u32 answer;
	__u32 seal_flags;
	__u32 nr_ranges;
	__u32 nr_pins;
	__u32 nr_sites;
	__u64 len;
	__u32 denied;
	__u32 reason;
	__u64 gpa;
	__u64 va;
	__u64 bits;
	__u32 reg;
	__u32 index;
	__u32 kexec_flags;
	__u32 kexec_len;
	__u64 offset;
	__u64 value;
};

#endif /* _UAPI_LINUX_HEKI_H */
