// SPDX-License-Identifier: GPL-2.0
/*
 * Heki's exits to user space: requests that need the VMM's consent, denials
 * that it wants to hear of, and the pause of a VM.
 *
 * A request waits in vcpu->arch.complete_userspace_io, as every exit with an
 * answer does. A denial may happen where nothing can be returned (in a fault,
 * in the emulator), so it waits in the vCPU with KVM_REQ_HEKI_EXIT, which is
 * served before the vCPU enters the guest again. The same request, left pending,
 * keeps the vCPUs of a paused VM out of the guest.
 *
 * Locks: vcpu->mutex; the hypercall and its completion come inside kvm->srcu.
 */
#include <linux/kvm_host.h>

#include "heki.h"
#include "regs.h"
#include "x86.h"

/* The exit lies in the union of struct kvm_run, which upstream's header keeps free of us. */
static_assert(sizeof(struct heki_exit) <= sizeof_field(struct kvm_run, padding));
static_assert(IS_ALIGNED(offsetof(struct kvm_run, padding), __alignof__(struct heki_exit)));

/* What the trace calls a reason, user space does too. */
static_assert(KVM_HEKI_REASON_SEALED == HEKI_REASON_SEALED);
static_assert(KVM_HEKI_REASON_NOT_EXECUTABLE == HEKI_REASON_NOT_EXECUTABLE);
static_assert(KVM_HEKI_REASON_PAGE_WALK == HEKI_REASON_PAGE_WALK);
static_assert(KVM_HEKI_REASON_PINNED == HEKI_REASON_PINNED);
static_assert(KVM_HEKI_REASON_UNLISTED == HEKI_REASON_UNLISTED);
static_assert(KVM_HEKI_REASON_FROZEN == HEKI_REASON_FROZEN);
static_assert(KVM_HEKI_REASON_FORM == HEKI_REASON_FORM);
static_assert(KVM_HEKI_REASON_TARGET == HEKI_REASON_TARGET);
static_assert(KVM_HEKI_REASON_STALE == HEKI_REASON_STALE);
static_assert(KVM_HEKI_REASON_CONTENT == HEKI_REASON_CONTENT);
static_assert(KVM_HEKI_REASON_KVM_WRITER == HEKI_REASON_KVM_WRITER);

static void heki_describe_vcpu(struct kvm_vcpu *vcpu, struct heki_exit *exit)
{
	exit->vcpu = vcpu->vcpu_id;
	exit->cpl = kvm_x86_call(get_cpl)(vcpu);
	exit->rip = kvm_rip_read(vcpu);
}

static void heki_fill_run(struct kvm_vcpu *vcpu, const struct heki_exit *exit)
{
	vcpu->run->exit_reason = KVM_EXIT_HEKI;
	memcpy(vcpu->run->padding, exit, sizeof(*exit));
}

/*
 * Requests
 */

/* For the Rust floor: @request is the vCPU's from here on. */
void heki_glue_ask(struct kvm_vcpu *vcpu, void *request, const struct heki_exit *asked)
{
	struct heki_exit exit = *asked;

	kvm_heki_forget_vcpu(vcpu);
	vcpu->arch.heki.request = request;
	vcpu->arch.heki.rip = kvm_get_linear_rip(vcpu);

	exit.kind = HEKI_EXIT_REQUEST;
	exit.answer = KVM_EPERM;
	heki_describe_vcpu(vcpu, &exit);
	heki_fill_run(vcpu, &exit);
}

/* What user space has not answered is denied: @answer says so from the start. */
static int heki_complete_request(struct kvm_vcpu *vcpu)
{
	const struct heki_exit *exit = (const void *)vcpu->run->padding;
	struct kvm_heki_vcpu *state = &vcpu->arch.heki;
	u32 answer = READ_ONCE(exit->answer);
	void *request = state->request;
	long ret = -KVM_EPERM;

	/* User space has sent the vCPU elsewhere: there is no hypercall to complete. */
	if (!kvm_is_linear_rip(vcpu, state->rip)) {
		kvm_heki_forget_vcpu(vcpu);
		return 1;
	}

	/* None is left after a reset. */
	state->request = NULL;
	if (request)
		ret = __kvm_heki_answer(vcpu->kvm->arch.heki, vcpu, request, answer);
	vcpu->run->hypercall.ret = ret;
	return state->complete(vcpu);
}

int __kvm_heki_serve(struct kvm_vcpu *vcpu, u64 op, u64 gpa, u64 len, u64 flags,
		     int (*complete)(struct kvm_vcpu *))
{
	long ret = __kvm_heki_hypercall(vcpu->kvm->arch.heki, vcpu, op, gpa, len, flags);

	if (ret == KVM_HEKI_ASK) {
		vcpu->arch.heki.complete = complete;
		vcpu->arch.complete_userspace_io = heki_complete_request;
		return 0;
	}
	vcpu->run->hypercall.ret = ret;
	return 1;
}

/* Drops what is not told and not answered yet. */
void kvm_heki_forget_vcpu(struct kvm_vcpu *vcpu)
{
	if (vcpu->arch.heki.request)
		__kvm_heki_drop(vcpu->arch.heki.request);
	vcpu->arch.heki.request = NULL;
	vcpu->arch.heki.denial.kind = 0;
}

/*
 * Denials
 */

/* When this returns, no vCPU runs guest code until user space resumes the VM. */
static void heki_pause(struct kvm *kvm)
{
	WRITE_ONCE(kvm->arch.heki->paused, 1);
	kvm_make_all_cpus_request(kvm, KVM_REQ_HEKI_EXIT);
}

static void heki_describe_denial(struct kvm_vcpu *vcpu, struct heki_exit *exit, u64 va,
				 u32 reg, u32 index, u64 bits, u64 value)
{
	switch (exit->denied) {
	case HEKI_CLASS_WRITE:
	case HEKI_CLASS_EXEC:
		exit->flags |= HEKI_EXIT_HAS_GPA;
		exit->gpa = vcpu->arch.heki.gpa;
		if (vcpu->arch.heki.has_gva) {
			exit->flags |= HEKI_EXIT_HAS_VA;
			exit->va = vcpu->arch.heki.gva;
		}
		break;
	case HEKI_CLASS_REGISTER:
		exit->flags |= HEKI_EXIT_HAS_REG;
		exit->reg = reg;
		exit->index = index;
		exit->bits = bits;
		exit->value = value;
		break;
	case HEKI_CLASS_PATCH:
		exit->flags |= HEKI_EXIT_HAS_VA;
		exit->va = va;
		break;
	}
	heki_describe_vcpu(vcpu, exit);
}

/* For the Rust floor. */
void heki_glue_tell_denial(struct kvm_vcpu *vcpu, u32 denied, u32 reason, u64 va, u32 reg,
			   u32 index, u64 bits, u64 value, bool learned)
{
	const struct kvm_heki *heki = vcpu->kvm->arch.heki;
	struct heki_exit *denial = &vcpu->arch.heki.denial;
	bool pauses;

	if (denied >= HEKI_CLASS_COUNT || heki->action[denied] == HEKI_ACTION_GP)
		return;

	/*
	 * One instruction may be denied more than once: what pauses the VM counts,
	 * else the first time that nothing was learned.
	 */
	pauses = heki->action[denied] == HEKI_ACTION_PAUSE;
	if (!denial->kind || (!learned && (denial->flags & HEKI_EXIT_IS_LEARNED)) ||
	    (pauses && !(denial->flags & HEKI_EXIT_IS_PAUSE))) {
		*denial = (struct heki_exit){
			.kind = HEKI_EXIT_DENIAL,
			.flags = learned ? HEKI_EXIT_IS_LEARNED : 0,
			.denied = denied,
			.reason = reason,
		};
		heki_describe_denial(vcpu, denial, va, reg, index, bits, value);
	}
	if (pauses) {
		denial->flags |= HEKI_EXIT_IS_PAUSE;
		heki_pause(vcpu->kvm);
	}
	kvm_make_request(KVM_REQ_HEKI_EXIT, vcpu);
}

/* Has the vCPU something to tell, or is its VM paused? */
bool __kvm_heki_check_exit(struct kvm_vcpu *vcpu)
{
	struct heki_exit exit = vcpu->arch.heki.denial;
	bool paused;

	/* A RESUME since then was for another denial. */
	if (exit.kind && exit.flags & HEKI_EXIT_IS_PAUSE)
		heki_pause(vcpu->kvm);
	paused = READ_ONCE(vcpu->kvm->arch.heki->paused);
	vcpu->arch.heki.denial.kind = 0;
	if (!exit.kind && !paused)
		return false;
	if (!exit.kind) {
		exit = (struct heki_exit){ .kind = HEKI_EXIT_PAUSED };
		heki_describe_vcpu(vcpu, &exit);
	}
	heki_fill_run(vcpu, &exit);

	/* For the next KVM_RUN. */
	if (paused)
		kvm_make_request(KVM_REQ_HEKI_EXIT, vcpu);
	return true;
}
