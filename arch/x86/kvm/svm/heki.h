/* SPDX-License-Identifier: GPL-2.0 */
/*
 * SVM part of Heki's pins: LIDT exits while the IDTR is pinned. Called when KVM
 * computes a vCPU's intercepts, vCPU loaded, no lock.
 */
#ifndef __KVM_X86_SVM_HEKI_H
#define __KVM_X86_SVM_HEKI_H

#include "../heki.h"
#include "svm.h"

static inline void svm_heki_recalc_intercepts(struct kvm_vcpu *vcpu)
{
	if (!kvm_heki_opted_in(vcpu->kvm))
		return;
	if (kvm_heki_pins_idt(vcpu))
		svm_set_intercept(to_svm(vcpu), INTERCEPT_LOAD_IDTR);
	else
		svm_clr_intercept(to_svm(vcpu), INTERCEPT_LOAD_IDTR);
}

#endif /* __KVM_X86_SVM_HEKI_H */
