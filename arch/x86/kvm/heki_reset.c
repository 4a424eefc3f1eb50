// SPDX-License-Identifier: GPL-2.0
/*
 * The ways back to Open: the VMM says so by the KVM device, or, where the
 * administrator allows it, by putting all vCPUs into their reset state.
 *
 * Nothing that a guest does alone ends a seal: not INIT, which KVM serves itself,
 * nor a triple fault. The second way exists for a VMM that knows no Heki.
 *
 * Locks, outermost first: kvm->lock, vcpu->mutex, kvm->slots_lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": heki: " fmt

#include <linux/kvm_host.h>
#include <linux/moduleparam.h>

#include "heki.h"
#include "irq.h"
#include "lapic.h"

static bool heki_reset_by_vcpus;
module_param(heki_reset_by_vcpus, bool, 0444);
MODULE_PARM_DESC(heki_reset_by_vcpus, "A VMM that puts all vCPUs into their reset state ends a seal");

/* No vCPU is in the guest, nor gets there before this returns. slots_lock held. */
static void heki_reset(struct kvm *kvm)
{
	__kvm_heki_reset(kvm->arch.heki, kvm);
	WRITE_ONCE(kvm->arch.heki->paused, 0);
}

/* All vCPUs out of KVM_RUN, and none more. kvm->lock held. */
int kvm_heki_lock_vcpus(struct kvm *kvm)
{
	if (kvm_is_vcpu_creation_in_progress(kvm) || kvm_trylock_all_vcpus(kvm))
		return -EBUSY;
	return 0;
}

/* What the old guest asked for, or did, does not touch the next one. */
int kvm_heki_reset_by_device(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;
	int ret;

	guard(mutex)(&kvm->lock);

	ret = kvm_heki_lock_vcpus(kvm);
	if (ret)
		return ret;

	mutex_lock(&kvm->slots_lock);
	heki_reset(kvm);
	mutex_unlock(&kvm->slots_lock);

	kvm_for_each_vcpu(i, vcpu, kvm) {
		kvm_heki_forget_vcpu(vcpu);
		/* A denial's, without paging. Not every VMM can clear it. */
		kvm_clear_request(KVM_REQ_TRIPLE_FAULT, vcpu);
	}

	kvm_unlock_all_vcpus(kvm);
	return 0;
}

/* SDM vol. 3A, table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT". */
static bool heki_is_reset_state(const struct kvm_sregs *sregs)
{
	return sregs->cs.selector == 0xf000 && sregs->cs.base == 0xffff0000 &&
	       !(sregs->cr0 & (X86_CR0_PE | X86_CR0_PG)) && !(sregs->efer & EFER_LME);
}

/*
 * That is not enough: a VMM may write back what the vCPU has, and a guest can make
 * a vCPU look so. Where user space emulates the local APIC, it does the same for an
 * INIT, which a guest sends as it likes.
 */
void __kvm_heki_set_sregs(struct kvm_vcpu *vcpu, const struct kvm_sregs *sregs)
{
	WRITE_ONCE(vcpu->arch.heki.is_reset, false);
	vcpu->arch.heki.has_tables = false;
	vcpu->arch.heki.has_reset_state = heki_reset_by_vcpus && irqchip_in_kernel(vcpu->kvm) &&
					  heki_is_reset_state(sregs);
	kvm_make_request(KVM_REQ_HEKI, vcpu);
}

/* QEMU does this after the registers of a reset or of a migration, never else. */
void __kvm_heki_set_mp_state(struct kvm_vcpu *vcpu)
{
	if (!vcpu->arch.heki.has_reset_state)
		return;
	WRITE_ONCE(vcpu->arch.heki.is_reset, true);
	kvm_heki_forget_vcpu(vcpu);
}

static bool heki_all_are_reset(struct kvm *kvm)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (!READ_ONCE(vcpu->arch.heki.is_reset))
			return false;
	}
	return true;
}

/*
 * The first vCPU to run is about to enter the guest, in kvm->srcu. One that is
 * marked has not come so far: its mark ends here, whoever resets the VM.
 */
void kvm_heki_reset_by_vcpus(struct kvm_vcpu *vcpu)
{
	struct kvm *kvm = vcpu->kvm;
	struct kvm_vcpu *other;
	unsigned long i;

	heki_glue_lock_slots(vcpu);
	if (heki_all_are_reset(kvm)) {
		heki_reset(kvm);
		kvm_for_each_vcpu(i, other, kvm)
			WRITE_ONCE(other->arch.heki.is_reset, false);
	}
	WRITE_ONCE(vcpu->arch.heki.is_reset, false);
	heki_glue_unlock_slots(vcpu);
}
