/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Heki inside KVM: the border between KVM's C and the Rust in virt/kvm/heki/.
 *
 * Three groups, in this order: the head of the per-VM state, which both sides
 * read; the functions written in Rust, which only arch/x86/kvm/heki.c calls;
 * the functions written in C, which only virt/kvm/heki/kvm/ calls. bindgen
 * reads this file, so that the compiler compares both sides: types stay opaque
 * pointers and plain integers.
 *
 * The hooks that KVM's own files call are in arch/x86/kvm/heki.h, but for the
 * two of virt/kvm/, which are here.
 */
#ifndef __LINUX_KVM_HEKI_H
#define __LINUX_KVM_HEKI_H

#include <linux/jump_label.h>
#include <linux/ratelimit_types.h>
#include <linux/types.h>
#include <uapi/linux/heki.h>

struct kvm;
struct kvm_memory_slot;
struct kvm_vcpu;
struct page;
struct seq_file;

/**
 * struct kvm_heki - head of the state of a VM that opted in
 * @sealed:	non-zero from the seal to the reset
 * @exec:	non-zero while supervisor execution is an allow-list
 * @cr0_on:	CR0 bits that hardware keeps set while guest code runs, unless the VM
 *		learns what would change them
 * @cr4_on:	CR4 bits likewise
 * @action:	HEKI_ACTION_* of each HEKI_CLASS_*; set before the first vCPU
 * @paused:	non-zero while no vCPU may run guest code
 * @log:	how many lines about this VM the log takes
 *
 * kvm->arch.heki points to it; the Rust state that contains it follows. Read
 * without a lock by the hooks, written under kvm->slots_lock, but for the last
 * three, which are C's own. Valid until the VM is destroyed or, before its first
 * vCPU, kvm_heki_forbid().
 */
struct kvm_heki {
	u32 sealed;
	u32 exec;
	u64 cr0_on;
	u64 cr4_on;
	u32 action[HEKI_CLASS_COUNT];
	u32 paused;
	struct ratelimit_state log;
};

/* Base and limit of IDTR, GDTR and TR, selectors of LDTR and TR. */
#define KVM_HEKI_NR_TABLES		8

#ifdef CONFIG_KVM_HEKI
/**
 * struct kvm_heki_vcpu - what a vCPU has to tell user space, and how far it is up
 * @denial:	the denial that exits next, none if its kind is zero
 * @gpa:	address of the access that is judged right now
 * @gva:	the guest's own address of it
 * @has_gva:	that is known: hardware does not always say
 * @request:	Rust's copy of the request that user space is asked about
 * @rip:	linear address of the instruction that made it
 * @gdt_stays:	the vCPU is up, and has the last GDT that it may load
 * @tables:	the parts of the descriptor-table registers that SMM has to give back
 * @cr0:	CR0 as the guest saw it, likewise
 * @cr4:	CR4 likewise
 * @has_tables:	they are known, as user space loaded no registers since
 * @in_rsm:	the vCPU is on its way out of SMM, through real mode
 * @complete:	KVM's end of a hypercall
 * @has_reset_state: user space loaded the registers of a reset, and the vCPU has not run since
 * @is_reset:	the same, and user space said what the vCPU does next
 *
 * Protected by vcpu->mutex; @is_reset is cleared under kvm->slots_lock too.
 */
struct kvm_heki_vcpu {
	struct heki_exit denial;
	u64 gpa;
	u64 gva;
	bool has_gva;
	void *request;
	unsigned long rip;
	bool gdt_stays;
	u64 tables[KVM_HEKI_NR_TABLES];
	u64 cr0;
	u64 cr4;
	bool has_tables;
	bool in_rsm;
	int (*complete)(struct kvm_vcpu *vcpu);
	bool has_reset_state;
	bool is_reset;
};
#else
struct kvm_heki_vcpu { };
#endif

/* What __kvm_heki_hypercall() returns when user space is to be asked first. */
#define KVM_HEKI_ASK			1

/* What an access is, for __kvm_heki_denied(). */
#define KVM_HEKI_ACCESS_WRITE		(1 << 0)
#define KVM_HEKI_ACCESS_FETCH		(1 << 1)	/* by supervisor mode */
#define KVM_HEKI_ACCESS_WALK		(1 << 2)	/* by the guest's page-table walker */
#define KVM_HEKI_ACCESS_PATCH		(1 << 3)	/* by request; never for __kvm_heki_denied() */

/* Why an access is denied: reasons of the tracepoint kvm_heki_deny. */
#define KVM_HEKI_REASON_SEALED		0
#define KVM_HEKI_REASON_NOT_EXECUTABLE	1
#define KVM_HEKI_REASON_PAGE_WALK	2
#define KVM_HEKI_REASON_PINNED		3
#define KVM_HEKI_REASON_UNLISTED	4
#define KVM_HEKI_REASON_FROZEN		5
#define KVM_HEKI_REASON_FORM		6
#define KVM_HEKI_REASON_TARGET		7
#define KVM_HEKI_REASON_STALE		8
#define KVM_HEKI_REASON_CONTENT		9
#define KVM_HEKI_REASON_KVM_WRITER	10

/* Which counter a report moves. */
#define KVM_HEKI_COUNT_QUERY		0
#define KVM_HEKI_COUNT_SEAL		1
#define KVM_HEKI_COUNT_REFUSED		2
#define KVM_HEKI_COUNT_WRITE		3
#define KVM_HEKI_COUNT_EXEC		4
#define KVM_HEKI_COUNT_CR		5
#define KVM_HEKI_COUNT_PATCH		6
#define KVM_HEKI_COUNT_PATCHED		7	/* instructions, not requests */
#define KVM_HEKI_COUNT_GRANT		8
#define KVM_HEKI_COUNT_DENIED_PATCH	9
#define KVM_HEKI_COUNT_MSR		10

/*
 * The bits that a guest can set as virt/kvm/heki/policy/registers.rs decides: none
 * that it says KVM refuses. Compared there with the table, and in arch/x86/kvm/
 * with what KVM lets a guest set: a new bit fails the build until somebody decides.
 */
#define KVM_HEKI_SETTABLE_CR0		0xe005003fULL
#define KVM_HEKI_SETTABLE_CR4		0x10f73fffULL
#define KVM_HEKI_SETTABLE_XCR0		0x602ffULL
#define KVM_HEKI_SETTABLE_EFER		0x20fd01ULL
#define KVM_HEKI_SETTABLE_XSS		0x1800ULL

/* Written in Rust: virt/kvm/heki/hooks.rs. */
struct kvm_heki *__kvm_heki_create(u64 cr4_in_hardware, u64 cr4_pinnable);
void __kvm_heki_destroy(struct kvm_heki *heki);
void __kvm_heki_reset(struct kvm_heki *heki, struct kvm *kvm);
int __kvm_heki_set_profile(struct kvm_heki *heki, struct kvm *kvm, const void *data, size_t len);
int __kvm_heki_set_policy(struct kvm_heki *heki, struct kvm *kvm,
			  const struct heki_policy *policy);
void __kvm_heki_get_policy(const struct kvm_heki *heki, struct heki_policy *policy);
void __kvm_heki_get_caps(const struct kvm_heki *heki, bool exec, bool dt,
			 struct heki_caps *caps);
u64 __kvm_heki_get_pin(const struct kvm_heki *heki, struct kvm_vcpu *vcpu, u32 reg, u32 index);
size_t __kvm_heki_state_bytes(const struct kvm_heki *heki, struct kvm *kvm);
int __kvm_heki_save_state(const struct kvm_heki *heki, struct kvm *kvm, void *data, size_t len);
int __kvm_heki_restore_state(struct kvm_heki *heki, struct kvm_vcpu *vcpu, const void *data,
			     size_t len);
u32 __kvm_heki_get_ranges(const struct kvm_heki *heki, struct heki_range *ranges, u32 room);
long __kvm_heki_hypercall(struct kvm_heki *heki, struct kvm_vcpu *vcpu,
			  u64 op, u64 gpa, u64 len, u64 flags);
long __kvm_heki_answer(struct kvm_heki *heki, struct kvm_vcpu *vcpu, void *request,
		       u32 answer);
void __kvm_heki_drop(void *request);
u32 __kvm_heki_rights(const struct kvm_heki *heki, u64 gfn, u64 nr_pages);
int __kvm_heki_max_level(const struct kvm_heki *heki, u64 gfn);
bool __kvm_heki_denied(const struct kvm_heki *heki, u64 gfn, u32 access);
bool __kvm_heki_deny_access(const struct kvm_heki *heki, struct kvm_vcpu *vcpu,
			    u64 gfn, u32 access);
void __kvm_heki_report_writer(const struct kvm_heki *heki, struct kvm_vcpu *vcpu, u64 gfn);
bool __kvm_heki_deny_cr(const struct kvm_heki *heki, struct kvm_vcpu *vcpu,
			u32 reg, u64 old, u64 new);
bool __kvm_heki_deny_load(const struct kvm_heki *heki, struct kvm_vcpu *vcpu,
			  u32 reg, u32 index, u64 new);
bool __kvm_heki_deny_task_switch(const struct kvm_heki *heki, struct kvm_vcpu *vcpu);
bool __kvm_heki_deny_change(const struct kvm_heki *heki, struct kvm_vcpu *vcpu,
			    u32 reg, u32 index, u64 old, u64 new);
bool __kvm_heki_holds(const struct kvm_heki *heki, u32 reg, u32 index);
void __kvm_heki_show(const struct kvm_heki *heki, struct seq_file *m);

/* Written in C for the Rust floor: arch/x86/kvm/heki.c. */
int heki_glue_read_guest(struct kvm_vcpu *vcpu, u64 gpa, void *data, u32 len);
int heki_glue_write_guest(struct kvm_vcpu *vcpu, u64 gpa, const void *data, u32 len);
u64 heki_glue_read_cr(struct kvm_vcpu *vcpu, u32 reg);
bool heki_glue_see_register(struct kvm_vcpu *vcpu, u32 reg, u32 index, u64 *bits, u64 *value);
bool heki_glue_is_up(struct kvm_vcpu *vcpu);
struct kvm *heki_glue_lock_slots(struct kvm_vcpu *vcpu);
void heki_glue_unlock_slots(struct kvm_vcpu *vcpu);
bool heki_glue_is_memory(struct kvm *kvm, u64 gfn, u64 nr_pages);
void heki_glue_begin_change(struct kvm *kvm, u64 start, u64 end);
void heki_glue_end_change(struct kvm *kvm, u64 start, u64 end);
void heki_glue_wait_for_readers(struct kvm *kvm);
void heki_glue_reload_vcpus(struct kvm *kvm);
void heki_glue_trace_query(struct kvm_vcpu *vcpu, long ret);
void heki_glue_trace_seal(struct kvm_vcpu *vcpu, u32 nr_ranges, u32 nr_pins,
			  u32 flags, const char *why, u32 why_len, long ret);
void heki_glue_trace_patch(struct kvm_vcpu *vcpu, u32 op, u32 nr, const char *why,
			   u32 why_len, long ret);
void heki_glue_trace_deny(struct kvm_vcpu *vcpu, u32 access, u64 gfn, u64 va, u32 reg,
			  u32 index, u64 bits, u32 reason, bool learned);
void heki_glue_count(struct kvm_vcpu *vcpu, u32 counter, u64 nr);
bool heki_glue_get_counters(struct kvm *kvm, u32 index, struct heki_counters *counters);
bool heki_glue_has_vcpu(struct kvm *kvm, u32 id);
void heki_glue_set_counters(struct kvm *kvm, const struct heki_counters *counters);
bool heki_glue_can_hold_exec(struct kvm_vcpu *vcpu);
bool heki_glue_can_hold_msrs(struct kvm_vcpu *vcpu);
bool heki_glue_log_allowed(struct kvm_vcpu *vcpu);
int heki_glue_pid(struct kvm_vcpu *vcpu);

/* The same: arch/x86/kvm/heki_exit.c. */
void heki_glue_ask(struct kvm_vcpu *vcpu, void *request, const struct heki_exit *asked);
void heki_glue_tell_denial(struct kvm_vcpu *vcpu, u32 denied, u32 reason, u64 va, u32 reg,
			   u32 index, u64 bits, u64 value, bool learned);

/* The same: arch/x86/kvm/heki_text.c. */
int heki_glue_read_memory(struct kvm *kvm, u64 gpa, void *data, u32 len);
struct page *heki_glue_pin_page(struct kvm *kvm, u64 gfn);
void heki_glue_unpin_page(struct kvm *kvm, u64 gfn, struct page *page, bool dirty);
void heki_glue_read_page(struct page *page, u32 offset, void *data, u32 len);
void heki_glue_write_page(struct page *page, u32 offset, const void *data, u32 len);
u32 heki_glue_max_pages(struct kvm *kvm);
void heki_glue_keep_vcpus_out(struct kvm *kvm);
void heki_glue_let_vcpus_in(struct kvm *kvm);

#ifdef CONFIG_KVM_HEKI
DECLARE_STATIC_KEY_FALSE(kvm_heki_key);

bool __kvm_heki_gfn_readonly(const struct kvm_memory_slot *slot, u64 gfn);
void __kvm_heki_tell_refusal(const struct kvm_memory_slot *slot, u64 gfn);

/* Is @gfn sealed, so that KVM must not write it for the guest? kvm->srcu or mmu_lock held. */
static inline bool kvm_heki_gfn_readonly(const struct kvm_memory_slot *slot, u64 gfn)
{
	return static_branch_unlikely(&kvm_heki_key) && __kvm_heki_gfn_readonly(slot, gfn);
}

/* A writer inside KVM was maybe @refused @gfn as read-only. Context as above, spinlocks too. */
static inline void kvm_heki_tell_refusal(const struct kvm_memory_slot *slot, u64 gfn,
					 bool refused)
{
	if (static_branch_unlikely(&kvm_heki_key) && refused)
		__kvm_heki_tell_refusal(slot, gfn);
}

/* Counters of a vCPU: the fields of struct kvm_vcpu_stat and their descriptions. */
#define KVM_HEKI_VCPU_STAT		\
	u64 heki_query;			\
	u64 heki_seal;			\
	u64 heki_refused;		\
	u64 heki_denied_write;		\
	u64 heki_denied_exec;		\
	u64 heki_denied_cr;		\
	u64 heki_patch;			\
	u64 heki_patched;		\
	u64 heki_grant;			\
	u64 heki_denied_patch;		\
	u64 heki_denied_msr;

#define KVM_HEKI_VCPU_STATS_DESC			\
	STATS_DESC_COUNTER(VCPU, heki_query),		\
	STATS_DESC_COUNTER(VCPU, heki_seal),		\
	STATS_DESC_COUNTER(VCPU, heki_refused),		\
	STATS_DESC_COUNTER(VCPU, heki_denied_write),	\
	STATS_DESC_COUNTER(VCPU, heki_denied_exec),	\
	STATS_DESC_COUNTER(VCPU, heki_denied_cr),	\
	STATS_DESC_COUNTER(VCPU, heki_patch),		\
	STATS_DESC_COUNTER(VCPU, heki_patched),		\
	STATS_DESC_COUNTER(VCPU, heki_grant),		\
	STATS_DESC_COUNTER(VCPU, heki_denied_patch),	\
	STATS_DESC_COUNTER(VCPU, heki_denied_msr),

/* The device type lies above upstream's, so the table of devices must reach it. */
#define KVM_NR_DEV_TYPES	(KVM_DEV_TYPE_HEKI + 1)
#else
static inline bool kvm_heki_gfn_readonly(const struct kvm_memory_slot *slot, u64 gfn)
{
	return false;
}

static inline void kvm_heki_tell_refusal(const struct kvm_memory_slot *slot, u64 gfn,
					 bool refused)
{
}

#define KVM_HEKI_VCPU_STAT
#define KVM_HEKI_VCPU_STATS_DESC
#define KVM_NR_DEV_TYPES	KVM_DEV_TYPE_MAX
#endif

#endif /* __LINUX_KVM_HEKI_H */
