/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The hooks that KVM's x86 code calls, one line and a name each.
 *
 * Every inline tests the static key, then the VM's own state, and only then
 * leaves for arch/x86/kvm/heki.c. The vendor modules use those of CR0 and
 * CR4, kvm_heki_pins_msr(), kvm_heki_pins_tables() and kvm_heki_deny_map(), which
 * read plain fields first: the key is not exported.
 * With CONFIG_KVM_HEKI off every hook compiles to nothing.
 */
#ifndef __KVM_X86_HEKI_H
#define __KVM_X86_HEKI_H

#include <linux/kvm_heki.h>
#include <linux/kvm_host.h>

#include <asm/desc_defs.h>
#include <asm/fpu/xcr.h>

#include "regs.h"
#include "smm.h"

struct kvm_mmu_page;
struct kvm_page_fault;
struct x86_emulate_ctxt;
struct x86_exception;

#if !defined(CONFIG_KVM_HEKI) || !defined(CONFIG_KVM_SMM)
#define kvm_heki_leave_smm emulator_leave_smm
#endif

#ifdef CONFIG_KVM_HEKI

/* Of _reg KVM lets guests set _bits; scripts/check-registers shows that it can fail. */
#define KVM_HEKI_ASSERT_SETTABLE(_reg, _bits) \
	static_assert(!((u64)(_bits) & ~KVM_HEKI_SETTABLE_##_reg))

void kvm_heki_module_init(void);
void __kvm_heki_init_vm(struct kvm *kvm);
void __kvm_heki_destroy_vm(struct kvm *kvm);
void kvm_heki_create_debugfs(struct kvm *kvm);
int kvm_heki_forbid(struct kvm *kvm);
void kvm_heki_reload(struct kvm_vcpu *vcpu);
int kvm_heki_lock_vcpus(struct kvm *kvm);
int kvm_heki_reset_by_device(struct kvm *kvm);
void kvm_heki_reset_by_vcpus(struct kvm_vcpu *vcpu);
void __kvm_heki_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs);
void __kvm_heki_set_mp_state(struct kvm_vcpu *vcpu);
void kvm_heki_forget_vcpu(struct kvm_vcpu *vcpu);
bool __kvm_heki_check_exit(struct kvm_vcpu *vcpu);
int __kvm_heki_serve(struct kvm_vcpu *vcpu, u64 op, u64 gpa, u64 len, u64 flags,
		     int (*complete)(struct kvm_vcpu *));
unsigned int __kvm_heki_clamp_access(struct kvm *kvm, union kvm_mmu_page_role role,
				     gfn_t gfn, unsigned int access);
u64 __kvm_heki_clamp_spte(struct kvm *kvm, struct kvm_mmu_page *sp, int index, u64 spte);
unsigned int __kvm_heki_root_access(struct kvm *kvm, union kvm_cpu_role cpu_role,
				    unsigned int access);
int __kvm_heki_check_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
bool __kvm_heki_deny_writer(struct kvm_vcpu *vcpu, gfn_t gfn);
bool __kvm_heki_pins(struct kvm_vcpu *vcpu, u32 reg, u32 index);
bool __kvm_heki_pins_table(struct kvm_vcpu *vcpu, u32 reg);
bool __kvm_heki_deny_idt(struct kvm_vcpu *vcpu, const struct desc_ptr *dt);
bool kvm_heki_shut_down_task_switch(struct kvm_vcpu *vcpu);
void __kvm_heki_enter_smm(struct kvm_vcpu *vcpu);
int kvm_heki_leave_smm(struct x86_emulate_ctxt *ctxt);
bool __kvm_heki_deny_gdt(struct kvm_vcpu *vcpu, const struct desc_ptr *dt);
bool __kvm_heki_deny_tr(struct kvm_vcpu *vcpu, u16 selector, const struct desc_struct *desc,
			u32 base3);
void kvm_heki_set_dt_exits(bool has);
bool __kvm_heki_deny_emulated(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, u32 access,
			      struct x86_exception *exception);
bool __kvm_heki_deny_write_std(struct kvm_vcpu *vcpu, gva_t gva, unsigned int bytes, u64 pferr,
			       struct x86_exception *exception);

/* For the vendor modules, which have no static key. */
static inline bool kvm_heki_opted_in(struct kvm *kvm)
{
	return kvm->arch.heki;
}

/* Must KVM not write any more what it mapped for a nested guest, maybe before the seal? */
static inline bool kvm_heki_deny_map(struct kvm_vcpu *vcpu, const struct kvm_host_map *map)
{
	return map->hva && kvm_heki_opted_in(vcpu->kvm) && __kvm_heki_deny_writer(vcpu, map->gfn);
}

/* The VM's state if it opted in, else NULL. */
static inline struct kvm_heki *kvm_heki_vm(struct kvm *kvm)
{
	if (!static_branch_unlikely(&kvm_heki_key))
		return NULL;
	return smp_load_acquire(&kvm->arch.heki);
}

/* The VM's state if it is sealed, else NULL. */
static inline struct kvm_heki *kvm_heki_sealed(struct kvm *kvm)
{
	struct kvm_heki *heki = kvm_heki_vm(kvm);

	return heki && READ_ONCE(heki->sealed) ? heki : NULL;
}

static inline void kvm_heki_init_vm(struct kvm *kvm)
{
	__kvm_heki_init_vm(kvm);
}

static inline void kvm_heki_destroy_vm(struct kvm *kvm)
{
	if (kvm->arch.heki)
		__kvm_heki_destroy_vm(kvm);
}

static inline void kvm_heki_init_memslot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	slot->arch.kvm = kvm;
}

/* A seal or a pause may be older than the vCPU, or too late for what it began with. */
static inline void kvm_heki_init_vcpu(struct kvm_vcpu *vcpu)
{
	if (!kvm_heki_vm(vcpu->kvm))
		return;
	kvm_make_request(KVM_REQ_HEKI, vcpu);
	kvm_make_request(KVM_REQ_HEKI_EXIT, vcpu);
}

static inline void kvm_heki_destroy_vcpu(struct kvm_vcpu *vcpu)
{
	kvm_heki_forget_vcpu(vcpu);
}

/* User space has loaded the vCPU's registers. */
static inline void kvm_heki_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs)
{
	if (kvm_heki_vm(vcpu->kvm))
		__kvm_heki_set_sregs(vcpu, sregs);
}

/* User space has said what the vCPU does next. */
static inline void kvm_heki_set_mp_state(struct kvm_vcpu *vcpu)
{
	if (kvm_heki_vm(vcpu->kvm))
		__kvm_heki_set_mp_state(vcpu);
}

/* True to leave for user space, which kvm_run tells why. */
static inline bool kvm_heki_check_exit(struct kvm_vcpu *vcpu)
{
	return kvm_check_request(KVM_REQ_HEKI_EXIT, vcpu) && __kvm_heki_check_exit(vcpu);
}

/* As ____kvm_emulate_hypercall(): 1 with the result in kvm_run, 0 to leave for user space. */
static inline int kvm_heki_hypercall(struct kvm_vcpu *vcpu, u64 op, u64 gpa, u64 len,
				     u64 flags, int (*complete)(struct kvm_vcpu *))
{
	if (kvm_heki_vm(vcpu->kvm))
		return __kvm_heki_serve(vcpu, op, gpa, len, flags, complete);
	vcpu->run->hypercall.ret = -KVM_ENOSYS;
	return 1;
}

static inline unsigned int kvm_heki_clamp_access(struct kvm *kvm,
						 union kvm_mmu_page_role role,
						 gfn_t gfn, unsigned int access)
{
	return kvm_heki_sealed(kvm) ? __kvm_heki_clamp_access(kvm, role, gfn, access) : access;
}

static inline u64 kvm_heki_clamp_spte(struct kvm *kvm, struct kvm_mmu_page *sp, int index,
				      u64 spte)
{
	return kvm_heki_sealed(kvm) ? __kvm_heki_clamp_spte(kvm, sp, index, spte) : spte;
}

static inline unsigned int kvm_heki_root_access(struct kvm *kvm, union kvm_cpu_role cpu_role,
						unsigned int access)
{
	return kvm_heki_sealed(kvm) ? __kvm_heki_root_access(kvm, cpu_role, access) : access;
}

/* What SMRAM is, which the map does not know, can end within a large page of SMM. */
static inline int kvm_heki_max_level(struct kvm *kvm, const struct kvm_memory_slot *slot,
				     gfn_t gfn, int max_level)
{
	struct kvm_heki *heki = kvm_heki_sealed(kvm);

	if (!heki)
		return max_level;
	return slot->as_id ? PG_LEVEL_4K : min(max_level, __kvm_heki_max_level(heki, gfn));
}

/* Zero to go on, else what the fault handler returns. */
static inline int kvm_heki_check_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	return kvm_heki_sealed(vcpu->kvm) ? __kvm_heki_check_fault(vcpu, fault) : 0;
}

static inline bool kvm_heki_deny_write(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa,
				       struct x86_exception *exception)
{
	return kvm_heki_sealed(vcpu->kvm) &&
	       __kvm_heki_deny_emulated(vcpu, gva, gpa, KVM_HEKI_ACCESS_WRITE, exception);
}

/* Descriptors, and what the emulator stores without MMIO: in one page or two. */
static inline bool kvm_heki_deny_write_std(struct kvm_vcpu *vcpu, gva_t gva, unsigned int bytes,
					   u64 pferr, struct x86_exception *exception)
{
	return kvm_heki_sealed(vcpu->kvm) &&
	       __kvm_heki_deny_write_std(vcpu, gva, bytes, pferr, exception);
}

static inline bool kvm_heki_deny_fetch(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, u64 pferr,
				       struct x86_exception *exception)
{
	return !(pferr & PFERR_USER_MASK) && kvm_heki_sealed(vcpu->kvm) &&
	       __kvm_heki_deny_emulated(vcpu, gva, gpa, KVM_HEKI_ACCESS_FETCH, exception);
}

/* Are denials of this class reported and allowed? Set before the first vCPU. */
static inline bool kvm_heki_learns(struct kvm *kvm, u32 class)
{
	return kvm->arch.heki->action[class] == HEKI_ACTION_LEARN;
}

/* SMM and nested guests run with control registers of their own. */
static inline bool kvm_heki_pins_apply(struct kvm_vcpu *vcpu)
{
	return vcpu->kvm->arch.heki && !is_smm(vcpu) && !is_guest_mode(vcpu);
}

/*
 * Without paging a change goes through where hardware holds the bit all the same: so do
 * starting vCPUs. They turn on paging with the pinned bits of EFER or not at all. What RSM
 * comes to is judged at its end.
 */
static inline bool kvm_heki_deny_cr(struct kvm_vcpu *vcpu, u32 reg, u64 old, u64 new)
{
	struct kvm_heki *heki = kvm_heki_sealed(vcpu->kvm);

	if (!heki || !kvm_heki_pins_apply(vcpu))
		return false;
	if (!is_paging(vcpu) && reg == HEKI_REG_CR4)
		old &= ~READ_ONCE(heki->cr4_on);
	if (is_paging(vcpu) || reg == HEKI_REG_CR4)
		return !vcpu->arch.heki.in_rsm && __kvm_heki_deny_cr(heki, vcpu, reg, old, new);
	return reg == HEKI_REG_CR0 && (new & X86_CR0_PG) &&
	       __kvm_heki_deny_load(heki, vcpu, HEKI_REG_MSR, MSR_EFER, vcpu->arch.efer);
}

/* EFER without paging is judged when paging is turned on; SMM has one of its own. */
static inline bool kvm_heki_deny_msr(struct kvm_vcpu *vcpu, u32 index, u64 data)
{
	struct kvm_heki *heki = kvm_heki_sealed(vcpu->kvm);

	if (!heki || (index == MSR_EFER && (!is_paging(vcpu) || is_smm(vcpu))))
		return false;
	return __kvm_heki_deny_load(heki, vcpu, HEKI_REG_MSR, index, data);
}

static inline bool kvm_heki_deny_xcr(struct kvm_vcpu *vcpu, u32 index, u64 data)
{
	struct kvm_heki *heki = kvm_heki_sealed(vcpu->kvm);

	return heki && index == XCR_XFEATURE_ENABLED_MASK &&
	       __kvm_heki_deny_load(heki, vcpu, HEKI_REG_XCR0, 0, data);
}

static inline bool kvm_heki_pins_msr(struct kvm_vcpu *vcpu, u32 index)
{
	return kvm_heki_opted_in(vcpu->kvm) && __kvm_heki_pins(vcpu, HEKI_REG_MSR, index);
}

static inline bool kvm_heki_pins_table(struct kvm_vcpu *vcpu, u32 reg)
{
	return kvm_heki_opted_in(vcpu->kvm) && __kvm_heki_pins_table(vcpu, reg);
}

/* VMX has one control for all of them. */
static inline bool kvm_heki_pins_tables(struct kvm_vcpu *vcpu)
{
	return kvm_heki_pins_table(vcpu, HEKI_REG_IDTR) ||
	       kvm_heki_pins_table(vcpu, HEKI_REG_GDTR) ||
	       kvm_heki_pins_table(vcpu, HEKI_REG_LDTR) ||
	       kvm_heki_pins_table(vcpu, HEKI_REG_TR);
}

/* SMM has tables of its own. */
static inline bool kvm_heki_tables_apply(struct kvm_vcpu *vcpu)
{
	return kvm_heki_sealed(vcpu->kvm) && !is_smm(vcpu);
}

static inline bool kvm_heki_deny_table(struct kvm_vcpu *vcpu, bool gdt, const struct desc_ptr *dt)
{
	if (!kvm_heki_tables_apply(vcpu))
		return false;
	return gdt ? __kvm_heki_deny_gdt(vcpu, dt) : __kvm_heki_deny_idt(vcpu, dt);
}

static inline bool kvm_heki_deny_tr(struct kvm_vcpu *vcpu, u16 selector,
				    const struct desc_struct *desc, u32 base3)
{
	return kvm_heki_tables_apply(vcpu) && __kvm_heki_deny_tr(vcpu, selector, desc, base3);
}

/* It would load LDTR and TR from memory. No kernel in long mode has one. */
static inline bool kvm_heki_deny_task_switch(struct kvm_vcpu *vcpu)
{
	return kvm_heki_tables_apply(vcpu) && kvm_heki_shut_down_task_switch(vcpu);
}

/* Sealed or not: it may be when SMM ends. */
static inline void kvm_heki_enter_smm(struct kvm_vcpu *vcpu)
{
	if (kvm_heki_opted_in(vcpu->kvm))
		__kvm_heki_enter_smm(vcpu);
}

static inline bool kvm_heki_deny_ldt(struct kvm_vcpu *vcpu, u16 selector)
{
	return kvm_heki_tables_apply(vcpu) &&
	       __kvm_heki_deny_load(vcpu->kvm->arch.heki, vcpu, HEKI_REG_LDTR, 0, selector);
}

/* The bits of which a change must exit. */
static inline unsigned long kvm_heki_cr0_pinned(struct kvm_vcpu *vcpu)
{
	return kvm_heki_pins_apply(vcpu) ? READ_ONCE(vcpu->kvm->arch.heki->cr0_on) : 0;
}

static inline unsigned long kvm_heki_cr4_pinned(struct kvm_vcpu *vcpu)
{
	return kvm_heki_pins_apply(vcpu) ? READ_ONCE(vcpu->kvm->arch.heki->cr4_on) : 0;
}

/* Those that hardware has set whatever the guest wrote: all of them, or none. */
static inline unsigned long kvm_heki_cr0_on(struct kvm_vcpu *vcpu)
{
	unsigned long pinned = kvm_heki_cr0_pinned(vcpu);

	return pinned && !kvm_heki_learns(vcpu->kvm, HEKI_CLASS_REGISTER) ? pinned : 0;
}

static inline unsigned long kvm_heki_cr4_on(struct kvm_vcpu *vcpu)
{
	unsigned long pinned = kvm_heki_cr4_pinned(vcpu);

	return pinned && !kvm_heki_learns(vcpu->kvm, HEKI_CLASS_REGISTER) ? pinned : 0;
}

#else

static inline void kvm_heki_module_init(void) { }
static inline void kvm_heki_init_vm(struct kvm *kvm) { }
static inline void kvm_heki_destroy_vm(struct kvm *kvm) { }
static inline void kvm_heki_create_debugfs(struct kvm *kvm) { }
static inline int kvm_heki_forbid(struct kvm *kvm) { return 0; }
static inline void kvm_heki_init_memslot(struct kvm *kvm, struct kvm_memory_slot *slot) { }
static inline void kvm_heki_reload(struct kvm_vcpu *vcpu) { }

static inline void kvm_heki_init_vcpu(struct kvm_vcpu *vcpu) { }
static inline void kvm_heki_destroy_vcpu(struct kvm_vcpu *vcpu) { }
static inline void kvm_heki_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs) { }
static inline void kvm_heki_set_mp_state(struct kvm_vcpu *vcpu) { }

static inline bool kvm_heki_deny_task_switch(struct kvm_vcpu *vcpu) { return false; }
static inline void kvm_heki_enter_smm(struct kvm_vcpu *vcpu) { }

static inline bool kvm_heki_check_exit(struct kvm_vcpu *vcpu)
{
	return false;
}

static inline int kvm_heki_hypercall(struct kvm_vcpu *vcpu, u64 op, u64 gpa, u64 len,
				     u64 flags, int (*complete)(struct kvm_vcpu *))
{
	vcpu->run->hypercall.ret = -KVM_ENOSYS;
	return 1;
}

static inline unsigned int kvm_heki_clamp_access(struct kvm *kvm,
						 union kvm_mmu_page_role role,
						 gfn_t gfn, unsigned int access)
{
	return access;
}

static inline u64 kvm_heki_clamp_spte(struct kvm *kvm, struct kvm_mmu_page *sp, int index,
				      u64 spte)
{
	return spte;
}

static inline unsigned int kvm_heki_root_access(struct kvm *kvm, union kvm_cpu_role cpu_role,
						unsigned int access)
{
	return access;
}

static inline int kvm_heki_max_level(struct kvm *kvm, const struct kvm_memory_slot *slot,
				     gfn_t gfn, int max_level)
{
	return max_level;
}

static inline int kvm_heki_check_fault(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	return 0;
}

static inline bool kvm_heki_deny_write(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa,
				       struct x86_exception *exception)
{
	return false;
}

static inline bool kvm_heki_deny_write_std(struct kvm_vcpu *vcpu, gva_t gva, unsigned int bytes,
					   u64 pferr, struct x86_exception *exception)
{
	return false;
}

static inline bool kvm_heki_deny_fetch(struct kvm_vcpu *vcpu, gva_t gva, gpa_t gpa, u64 pferr,
				       struct x86_exception *exception)
{
	return false;
}

static inline bool kvm_heki_deny_cr(struct kvm_vcpu *vcpu, u32 reg, u64 old, u64 new)
{
	return false;
}

static inline bool kvm_heki_deny_msr(struct kvm_vcpu *vcpu, u32 index, u64 data)
{
	return false;
}

static inline bool kvm_heki_deny_xcr(struct kvm_vcpu *vcpu, u32 index, u64 data)
{
	return false;
}

static inline bool kvm_heki_deny_table(struct kvm_vcpu *vcpu, bool gdt, const struct desc_ptr *dt)
{
	return false;
}

static inline bool kvm_heki_deny_tr(struct kvm_vcpu *vcpu, u16 selector,
				    const struct desc_struct *desc, u32 base3)
{
	return false;
}

static inline bool kvm_heki_deny_ldt(struct kvm_vcpu *vcpu, u16 selector)
{
	return false;
}

static inline bool kvm_heki_deny_map(struct kvm_vcpu *vcpu, const struct kvm_host_map *map)
{
	return false;
}

#define KVM_HEKI_ASSERT_SETTABLE(_reg, _bits) static_assert(true)
static inline bool kvm_heki_opted_in(struct kvm *kvm) { return false; }
static inline void kvm_heki_set_dt_exits(bool has) { }
static inline bool kvm_heki_pins_msr(struct kvm_vcpu *vcpu, u32 index) { return false; }
static inline bool kvm_heki_pins_table(struct kvm_vcpu *vcpu, u32 reg) { return false; }
static inline bool kvm_heki_pins_tables(struct kvm_vcpu *vcpu) { return false; }
static inline unsigned long kvm_heki_cr0_on(struct kvm_vcpu *vcpu) { return 0; }
static inline unsigned long kvm_heki_cr4_on(struct kvm_vcpu *vcpu) { return 0; }
static inline unsigned long kvm_heki_cr4_pinned(struct kvm_vcpu *vcpu) { return 0; }

#endif /* CONFIG_KVM_HEKI */

#endif /* __KVM_X86_HEKI_H */
