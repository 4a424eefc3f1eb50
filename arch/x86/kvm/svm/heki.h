/* SPDX-License-Identifier: GPL-2.0 */
/*
 * SVM part of Heki's pins: the load of a pinned descriptor-table register exits.
 * Called when KVM computes a vCPU's intercepts, vCPU loaded, no lock.
 */
#ifndef __KVM_X86_SVM_HEKI_H
#define __KVM_X86_SVM_HEKI_H

#include "../heki.h"
#include "svm.h"

static inline void svm_heki_intercept_load(struct kvm_vcpu *vcpu, u32 reg, int intercept)
{
	if (kvm_heki_pins_table(vcpu, reg))
		svm_set_intercept(to_svm(vcpu), intercept);
	else
		svm_clr_intercept(to_svm(vcpu), intercept);
}

static inline void svm_heki_recalc_intercepts(struct kvm_vcpu *vcpu)
{
	if (!kvm_heki_opted_in(vcpu->kvm))
		return;
	svm_heki_intercept_load(vcpu, HEKI_REG_IDTR, INTERCEPT_LOAD_IDTR);
	svm_heki_intercept_load(vcpu, HEKI_REG_GDTR, INTERCEPT_LOAD_GDTR);
	svm_heki_intercept_load(vcpu, HEKI_REG_LDTR, INTERCEPT_LOAD_LDTR);
	svm_heki_intercept_load(vcpu, HEKI_REG_TR, INTERCEPT_LOAD_TR);
}

#endif /* __KVM_X86_SVM_HEKI_H */
