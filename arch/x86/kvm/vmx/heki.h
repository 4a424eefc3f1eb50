/* SPDX-License-Identifier: GPL-2.0 */
/*
 * VMX part of Heki's pins: what exits. First, which bits the guest owns. A pinned bit must exit,
 * so it leaves the guest-owned mask; the read shadow keeps what the guest wrote.
 * Called by vmx_set_cr0() and vmx_set_cr4(), vCPU loaded, no lock.
 */
#ifndef __KVM_X86_VMX_HEKI_H
#define __KVM_X86_VMX_HEKI_H

#include "../heki.h"
#include "vmx.h"

/*
 * Descriptor-table exiting is one control for all eight instructions. KVM uses it
 * to emulate UMIP, too, on CPUs without UMIP: see vmx_set_cr4().
 */
static inline bool vmx_heki_has_dt_exits(void)
{
	return vmcs_config.cpu_based_2nd_exec_ctrl & SECONDARY_EXEC_DESC;
}

static inline bool vmx_heki_wants_dt_exits(struct kvm_vcpu *vcpu)
{
	return kvm_heki_pins_tables(vcpu) ||
	       (vmx_umip_emulated() && kvm_is_cr4_bit_set(vcpu, X86_CR4_UMIP));
}

static inline void vmx_heki_recalc_intercepts(struct kvm_vcpu *vcpu)
{
	/* L1 owns the control of its guest, and a VM with guests of its own has no such pin. */
	if (kvm_heki_opted_in(vcpu->kvm) && vmx_heki_has_dt_exits() && !is_guest_mode(vcpu))
		secondary_exec_controls_changebit(to_vmx(vcpu), SECONDARY_EXEC_DESC,
						  vmx_heki_wants_dt_exits(vcpu));
}

#ifdef CONFIG_KVM_HEKI
static inline unsigned long vmx_heki_cr0_on(struct kvm_vcpu *vcpu)
{
	unsigned long pinned = kvm_heki_cr0_pinned(vcpu);

	if (vcpu->kvm->arch.heki && !is_guest_mode(vcpu)) {
		vcpu->arch.cr0_guest_owned_bits = vmx_l1_guest_owned_cr0_bits() & ~pinned;
		vmcs_writel(CR0_GUEST_HOST_MASK, ~vcpu->arch.cr0_guest_owned_bits);
	}
	return kvm_heki_cr0_on(vcpu);
}

static inline unsigned long vmx_heki_cr4_on(struct kvm_vcpu *vcpu)
{
	if (vcpu->kvm->arch.heki && !is_guest_mode(vcpu))
		set_cr4_guest_host_mask(to_vmx(vcpu));
	return kvm_heki_cr4_on(vcpu);
}

/* The address behind an EPT violation, for whoever is told of a denial. */
static inline void vmx_heki_note_gva(struct kvm_vcpu *vcpu, unsigned long exit_qualification)
{
	if (!kvm_heki_opted_in(vcpu->kvm))
		return;
	vcpu->arch.heki.has_gva = exit_qualification & EPT_VIOLATION_GVA_IS_VALID;
	if (vcpu->arch.heki.has_gva)
		vcpu->arch.heki.gva = vmcs_readl(GUEST_LINEAR_ADDRESS);
}
#else
static inline void vmx_heki_note_gva(struct kvm_vcpu *vcpu, unsigned long exit_qualification) { }
static inline unsigned long vmx_heki_cr0_on(struct kvm_vcpu *vcpu) { return 0; }
static inline unsigned long vmx_heki_cr4_on(struct kvm_vcpu *vcpu) { return 0; }
#endif

#endif /* __KVM_X86_VMX_HEKI_H */
