// SPDX-License-Identifier: GPL-2.0
/*
 * Pinned MSRs, XCR0 and descriptor-table registers: a vCPU can load the value of the seal and no other, on
 * every vCPU, through every instruction; and what is not pinned costs what it did.
 */
#include "kvm_test_harness.h"
#include "apic.h"
#include "heki.h"
#include "mce.h"

#define NR_VCPUS	2
#define LATER		2	/* a vCPU that is created after the seal */
#define NR_WRITES	200

#define ALL		(~0ull)
#define XSS_CET_U	BIT_ULL(11)
#define XSS_CET_S	BIT_ULL(12)

/* selftests do not name these */
#ifndef MSR_AMD64_DE_CFG
#define MSR_AMD64_DE_CFG	0xc0011029
#endif
#define VM_CR_R_INIT		BIT_ULL(1)

/* arg[0]: MSR, arg[1]: value */
static u64 guest_fep_wrmsr(u64 *arg)
{
	return kvm_asm_safe_fep("wrmsr", "a"((u32)arg[1]), "d"(arg[1] >> 32), "c"((u32)arg[0]));
}

static u64 guest_wrmsrns(u64 *arg)
{
	return kvm_asm_safe(".byte 0x0f, 0x01, 0xc6", "a"((u32)arg[1]), "d"(arg[1] >> 32),
			    "c"((u32)arg[0]));
}

static u64 guest_wrmsr_often(u64 *arg)
{
	int i;

	for (i = 0; i < NR_WRITES; i++)
		wrmsr(arg[0], arg[1]);
	return 0;
}

static u64 guest_xgetbv(u64 *arg)
{
	return xgetbv(0);
}

static u64 guest_xsetbv(u64 *arg)
{
	return xsetbv_safe(arg[0], arg[1]);
}

static u64 guest_fep_xsetbv(u64 *arg)
{
	return kvm_asm_safe_fep("xsetbv", "a"((u32)arg[1]), "d"(arg[1] >> 32), "c"((u32)arg[0]));
}

static u64 get_msr(struct kvm_vcpu *vcpu, u32 msr)
{
	return heki_call(vcpu, guest_rdmsr, msr);
}

static u64 set_msr(struct kvm_vcpu *vcpu, u32 msr, u64 value)
{
	return heki_call(vcpu, guest_wrmsr, msr, value);
}

/* A load is refused with #GP, counted once, and the register keeps its value. */
static bool is_refused(struct kvm_vcpu *vcpu, u32 msr, u64 value)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_msr);
	u64 before = get_msr(vcpu, msr);

	return set_msr(vcpu, msr, value) == GP_VECTOR && get_msr(vcpu, msr) == before &&
	       vcpu_get_stat(vcpu, heki_denied_msr) == denied + 1;
}

/* A load takes effect, and is not counted. */
static bool is_taken(struct kvm_vcpu *vcpu, u32 msr, u64 value)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_msr);

	return !set_msr(vcpu, msr, value) && get_msr(vcpu, msr) == value &&
	       vcpu_get_stat(vcpu, heki_denied_msr) == denied;
}

/*
 * One register
 */

FIXTURE(msr) {
	struct heki_vm h;
	u64 mask;	/* what can be pinned */
	u64 value;	/* what is */
	u64 other;	/* what an attacker would load */
};

FIXTURE_VARIANT(msr) {
	u32 msr;
	u64 mask;	/* what is asked for at most */
	u64 value;	/* loaded before the seal; 0 to leave it */
	u64 flip;	/* bits that an attacker flips */
	bool optional;	/* where the vCPU has it */
	void (*prepare)(struct kvm_vcpu *vcpu);
};

/* Local machine checks, which FEATURE_CONTROL turns on: a bit that does not lock it. */
static void offer_lmce(struct kvm_vcpu *vcpu)
{
	u64 supported, cap = MCG_CTL_P | MCG_LMCE_P | 10;

	if (ioctl(vcpu->vm->kvm_fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &supported) ||
	    !(supported & MCG_LMCE_P))
		return;
	TEST_ASSERT(!__vcpu_ioctl(vcpu, KVM_X86_SETUP_MCE, &cap), "Cannot set up machine checks");
}

#define MSR_TO_PIN(_name, args...)	FIXTURE_VARIANT_ADD(msr, _name) { args }

MSR_TO_PIN(efer_sce, .msr = MSR_EFER, .mask = EFER_SCE | EFER_NX | EFER_LME, .flip = EFER_SCE);
MSR_TO_PIN(efer_nx, .msr = MSR_EFER, .mask = EFER_NX, .flip = EFER_NX);
MSR_TO_PIN(efer_lmsle, .msr = MSR_EFER, .mask = EFER_LMSLE, .flip = EFER_LMSLE, .optional = true);
MSR_TO_PIN(efer_ffxsr, .msr = MSR_EFER, .mask = EFER_FFXSR, .flip = EFER_FFXSR, .optional = true);
MSR_TO_PIN(efer_tce, .msr = MSR_EFER, .mask = EFER_TCE, .flip = EFER_TCE, .optional = true);
MSR_TO_PIN(efer_autoibrs, .msr = MSR_EFER, .mask = EFER_AUTOIBRS, .flip = EFER_AUTOIBRS,
	   .optional = true);
MSR_TO_PIN(star, .msr = MSR_STAR, .mask = ALL, .value = 0x0023001000000000, .flip = 1ull << 35);
MSR_TO_PIN(lstar, .msr = MSR_LSTAR, .mask = ALL, .value = 0xffffffff81000000, .flip = 0x1000);
MSR_TO_PIN(cstar, .msr = MSR_CSTAR, .mask = ALL, .value = 0xffffffff81001000, .flip = 0x1000);
MSR_TO_PIN(sfmask, .msr = MSR_SYSCALL_MASK, .mask = ALL, .value = 0x47700, .flip = 0x200);
MSR_TO_PIN(sysenter_cs, .msr = MSR_IA32_SYSENTER_CS, .mask = 0xffffffffull, .value = 0x10, .flip = 0x8);
MSR_TO_PIN(sysenter_eip, .msr = MSR_IA32_SYSENTER_EIP, .mask = ALL, .value = 0x81002000,
	   .flip = 0x1000);
MSR_TO_PIN(pat, .msr = MSR_IA32_CR_PAT, .mask = ALL, .value = 0x0007010600070106, .flip = 2);
MSR_TO_PIN(apic_base, .msr = MSR_IA32_APICBASE, .mask = GENMASK_ULL(51, 12) | 3ull << 10,
	   .flip = 1ull << 20);
MSR_TO_PIN(apic_base_en, .msr = MSR_IA32_APICBASE, .mask = MSR_IA32_APICBASE_ENABLE,
	   .flip = MSR_IA32_APICBASE_ENABLE);
MSR_TO_PIN(feature_control, .msr = MSR_IA32_FEAT_CTL, .mask = ALL, .flip = FEAT_CTL_LMCE_ENABLED,
	   .optional = true, .prepare = offer_lmce);
MSR_TO_PIN(misc_enable, .msr = MSR_IA32_MISC_ENABLE, .mask = 1, .flip = 1);
MSR_TO_PIN(limit_cpuid, .msr = MSR_IA32_MISC_ENABLE, .mask = MSR_IA32_MISC_ENABLE_LIMIT_CPUID,
	   .flip = MSR_IA32_MISC_ENABLE_LIMIT_CPUID, .optional = true);
MSR_TO_PIN(xd_disable, .msr = MSR_IA32_MISC_ENABLE, .mask = MSR_IA32_MISC_ENABLE_XD_DISABLE,
	   .flip = MSR_IA32_MISC_ENABLE_XD_DISABLE, .optional = true);
MSR_TO_PIN(xss, .msr = MSR_IA32_XSS, .mask = ALL, .flip = XSS_CET_U, .optional = true);
MSR_TO_PIN(s_cet, .msr = MSR_IA32_S_CET, .mask = ALL, .flip = 1ull << 2, .optional = true);
MSR_TO_PIN(pl0_ssp, .msr = MSR_IA32_PL0_SSP, .mask = ALL, .flip = 0x1000, .optional = true);
MSR_TO_PIN(pl1_ssp, .msr = MSR_IA32_PL1_SSP, .mask = ALL, .flip = 0x1000, .optional = true);
MSR_TO_PIN(pl2_ssp, .msr = MSR_IA32_PL2_SSP, .mask = ALL, .flip = 0x1000, .optional = true);
MSR_TO_PIN(int_ssp_table, .msr = MSR_IA32_INT_SSP_TAB, .mask = ALL, .flip = 0x1000,
	   .optional = true);
MSR_TO_PIN(tsx_ctrl, .msr = MSR_IA32_TSX_CTRL, .mask = ALL, .flip = TSX_CTRL_RTM_DISABLE,
	   .optional = true);
MSR_TO_PIN(vm_cr, .msr = MSR_VM_CR, .mask = ALL, .flip = VM_CR_R_INIT, .optional = true);
MSR_TO_PIN(de_cfg, .msr = MSR_AMD64_DE_CFG, .mask = ALL, .flip = 1ull << 1, .optional = true);

/* Why no guest can load the value, if none can. */
static const char *obstacle(struct kvm_vcpu *vcpu, u32 msr, u64 value)
{
	heki_prepare_call(vcpu, guest_wrmsr, (u64[HEKI_NR_ARGS]){ msr, value });
	vcpu_run(vcpu);
	if (vcpu->run->exit_reason == KVM_EXIT_FAIL_ENTRY)
		return "this emulator runs no guest with it";
	return heki_finish_call(vcpu) ? "this vCPU lets nobody change it" : NULL;
}

FIXTURE_SETUP(msr)
{
	struct heki_vm *h = &self->h;
	const char *why = NULL;
	int i;

	heki_vm_create(h, NR_VCPUS);
	for (i = 0; variant->prepare && i < NR_VCPUS; i++)
		variant->prepare(h->vcpu[i]);
	self->mask = heki_query_pin(h, h->vcpu[0], HEKI_REG_MSR, variant->msr) & variant->mask;
	if (variant->optional && !self->mask)
		SKIP(return, "this vCPU has no such register");
	ASSERT_NE(0, self->mask & variant->flip);
	for (i = 0; variant->value && i < NR_VCPUS; i++)
		ASSERT_TRUE(is_taken(h->vcpu[i], variant->msr, variant->value));
	self->value = get_msr(h->vcpu[0], variant->msr);
	self->other = self->value ^ variant->flip;
	if (variant->optional)
		why = obstacle(h->vcpu[0], variant->msr, self->other);
	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, set_msr(h->vcpu[0], variant->msr, self->value));
}

FIXTURE_TEARDOWN(msr)
{
	heki_vm_free(&self->h);
}

static void add_msr(struct heki_vm *h, u32 msr, u64 mask)
{
	/* XRSTORS could load the pointers of shadow stacks. */
	if (msr >= MSR_IA32_PL0_SSP && msr <= MSR_IA32_PL2_SSP)
		heki_add_msr(h->request, MSR_IA32_XSS, XSS_CET_S);
	heki_add_msr(h->request, msr, mask);
}

static void seal_msr(struct heki_vm *h, u32 msr, u64 mask)
{
	heki_begin_request(h, 0);
	add_msr(h, msr, mask);
	heki_seal(h);
}

HEKI_TEST(msr, unsealed_it_can_be_changed)
{
	int i;

	for (i = 0; i < NR_VCPUS; i++) {
		u64 value = get_msr(self->h.vcpu[i], variant->msr);

		EXPECT_TRUE(is_taken(self->h.vcpu[i], variant->msr, value ^ variant->flip));
		EXPECT_TRUE(is_taken(self->h.vcpu[i], variant->msr, value));
	}
}

HEKI_TEST(msr, it_cannot_be_changed_on_any_vcpu)
{
	int i;

	seal_msr(&self->h, variant->msr, self->mask);
	for (i = 0; i < NR_VCPUS; i++) {
		struct kvm_vcpu *vcpu = self->h.vcpu[i];
		u64 value = get_msr(vcpu, variant->msr);

		EXPECT_EQ(self->value & self->mask, value & self->mask);
		EXPECT_TRUE(is_refused(vcpu, variant->msr, value ^ variant->flip));
		EXPECT_TRUE(is_refused(vcpu, variant->msr, value ^ variant->flip));
		EXPECT_TRUE(is_taken(vcpu, variant->msr, value));
	}
}

HEKI_TEST(msr, it_cannot_be_changed_on_a_vcpu_that_comes_later)
{
	struct heki_vm *h = &self->h;
	u64 value;

	seal_msr(h, variant->msr, self->mask);
	heki_add_vcpu(h, LATER, 0);
	EXPECT_TRUE(is_refused(h->vcpu[LATER], variant->msr, self->other));
	value = get_msr(h->vcpu[LATER], variant->msr);
	value = (value & ~self->mask) | (self->value & self->mask);
	EXPECT_TRUE(is_taken(h->vcpu[LATER], variant->msr, value));
	EXPECT_TRUE(is_refused(h->vcpu[LATER], variant->msr, value ^ variant->flip));
}

HEKI_TEST(msr, the_emulator_refuses_too)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	seal_msr(&self->h, variant->msr, self->mask);
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_fep_wrmsr, variant->msr, self->other));
	EXPECT_EQ(self->value, get_msr(vcpu, variant->msr));
	EXPECT_EQ(0, heki_call(vcpu, guest_fep_wrmsr, variant->msr, self->value));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

HEKI_TEST(msr, a_reset_lets_it_go)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	seal_msr(&self->h, variant->msr, self->mask);
	EXPECT_EQ(self->mask, heki_query_pin(&self->h, vcpu, HEKI_REG_MSR, variant->msr));
	EXPECT_EQ(HEKI_PROT_MSR, heki_query(&self->h).held & HEKI_PROT_MSR);
	EXPECT_TRUE(is_refused(vcpu, variant->msr, self->other));
	kvm_device_attr_set(self->h.device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL);
	EXPECT_EQ(0, heki_query(&self->h).held);
	EXPECT_TRUE(is_taken(vcpu, variant->msr, self->other));
}

/* It stays the VMM's to set, as after a reset or a migration. */
HEKI_TEST(msr, user_space_may_set_it)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	if (variant->optional && _vcpu_set_msr(vcpu, variant->msr, self->other) != 1)
		SKIP(return, "user space cannot set it anyway");
	EXPECT_EQ(1, _vcpu_set_msr(vcpu, variant->msr, self->value));
	seal_msr(&self->h, variant->msr, self->mask);
	EXPECT_EQ(1, _vcpu_set_msr(vcpu, variant->msr, self->other));
	EXPECT_EQ(self->other, get_msr(vcpu, variant->msr));
	EXPECT_TRUE(is_taken(vcpu, variant->msr, self->value));
}

/*
 * The rules around them
 */

FIXTURE(msrs) {
	struct heki_vm h;
};

FIXTURE_SETUP(msrs)
{
	heki_vm_create(&self->h, NR_VCPUS);
}

FIXTURE_TEARDOWN(msrs)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(msrs, other_bits_still_change)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	EXPECT_TRUE(is_taken(vcpu, MSR_LSTAR, 0x1000));
	seal_msr(&self->h, MSR_LSTAR, 0xf000);
	EXPECT_TRUE(is_taken(vcpu, MSR_LSTAR, 0x1fff));
	EXPECT_TRUE(is_refused(vcpu, MSR_LSTAR, 0x3000));
	EXPECT_TRUE(is_taken(vcpu, MSR_LSTAR, 0x7fff00001000));
}

/* A vCPU with another value keeps it, until it loads that of the seal. */
HEKI_TEST(msrs, the_value_is_that_of_the_vcpu_that_asks)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(is_taken(h->vcpu[0], MSR_LSTAR, 0x1000));
	EXPECT_TRUE(is_taken(h->vcpu[1], MSR_LSTAR, 0x2000));
	seal_msr(h, MSR_LSTAR, ALL);
	EXPECT_TRUE(is_refused(h->vcpu[1], MSR_LSTAR, 0x2000));
	EXPECT_TRUE(is_taken(h->vcpu[1], MSR_LSTAR, 0x1000));
	EXPECT_TRUE(is_refused(h->vcpu[1], MSR_LSTAR, 0x2000));
}

HEKI_TEST(msrs, a_vcpu_loads_its_own_stack_once)
{
	u32 msr = MSR_IA32_SYSENTER_ESP;
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(is_taken(h->vcpu[0], msr, 0x1000));
	EXPECT_TRUE(is_taken(h->vcpu[1], msr, 0x2000));
	seal_msr(h, msr, heki_query_pin(h, h->vcpu[0], HEKI_REG_MSR, msr));
	EXPECT_TRUE(is_taken(h->vcpu[0], msr, 0x1000));
	EXPECT_TRUE(is_taken(h->vcpu[1], msr, 0x2000));
	EXPECT_TRUE(is_refused(h->vcpu[0], msr, 0x2000));
	EXPECT_TRUE(is_refused(h->vcpu[1], msr, 0x1000));
	EXPECT_TRUE(is_refused(h->vcpu[1], msr, 0));

	heki_add_vcpu(h, LATER, 0);
	EXPECT_TRUE(is_taken(h->vcpu[LATER], msr, 0x3000));
	EXPECT_TRUE(is_refused(h->vcpu[LATER], msr, 0x4000));
	EXPECT_TRUE(is_taken(h->vcpu[LATER], msr, 0x3000));
}

/* Where no CPU has such a stack, none gets one. */
HEKI_TEST(msrs, a_vcpu_loads_no_stack_where_there_is_none)
{
	u32 msr = MSR_IA32_SYSENTER_ESP;
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(is_taken(h->vcpu[0], msr, 0));
	seal_msr(h, msr, heki_query_pin(h, h->vcpu[0], HEKI_REG_MSR, msr));
	EXPECT_TRUE(is_refused(h->vcpu[0], msr, 0x1000));
	EXPECT_TRUE(is_refused(h->vcpu[1], msr, 0x1000));
	EXPECT_TRUE(is_taken(h->vcpu[1], msr, 0));
}

/* Of the modes of the APIC, EXTD can be left by a way through off only: two vCPUs to show it. */
HEKI_TEST(msrs, x2apic_mode_is_not_entered)
{
	struct kvm_vcpu **vcpu = self->h.vcpu;
	u64 xapic = get_msr(vcpu[0], MSR_IA32_APICBASE) & ~MSR_IA32_APICBASE_EXTD;

	EXPECT_TRUE(is_taken(vcpu[1], MSR_IA32_APICBASE,
			     get_msr(vcpu[1], MSR_IA32_APICBASE) | MSR_IA32_APICBASE_EXTD));
	seal_msr(&self->h, MSR_IA32_APICBASE, MSR_IA32_APICBASE_EXTD);
	EXPECT_TRUE(is_refused(vcpu[0], MSR_IA32_APICBASE, xapic | MSR_IA32_APICBASE_EXTD));
	EXPECT_TRUE(is_taken(vcpu[0], MSR_IA32_APICBASE, xapic));
}

#define X86_FEATURE_WRMSRNS	KVM_X86_CPU_FEATURE(0x7, 1, EAX, 19)

HEKI_TEST(msrs, wrmsrns_is_refused_too)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	if (!kvm_cpu_has(X86_FEATURE_WRMSRNS))
		SKIP(return, "this vCPU has no WRMSRNS");
	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsrns, MSR_LSTAR, 0x2000));
	EXPECT_EQ(0x2000, get_msr(vcpu, MSR_LSTAR));
	EXPECT_TRUE(is_taken(vcpu, MSR_LSTAR, 0x1000));
	seal_msr(&self->h, MSR_LSTAR, ALL);
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_wrmsrns, MSR_LSTAR, 0x2000));
	EXPECT_EQ(0x1000, get_msr(vcpu, MSR_LSTAR));
	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsrns, MSR_LSTAR, 0x1000));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

static u64 exits_of_writes(struct kvm_vcpu *vcpu, u32 msr)
{
	u64 value = get_msr(vcpu, msr), before = vcpu_get_stat(vcpu, exits);

	heki_call(vcpu, guest_wrmsr_often, msr, value);
	return vcpu_get_stat(vcpu, exits) - before;
}

/* SYSENTER_CS is passed through on both vendors; so is GS_BASE, which cannot be pinned. */
HEKI_TEST(msrs, only_a_pinned_msr_exits)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	EXPECT_GT(NR_WRITES, exits_of_writes(vcpu, MSR_IA32_SYSENTER_CS));
	EXPECT_GT(NR_WRITES, exits_of_writes(vcpu, MSR_GS_BASE));
	seal_msr(&self->h, MSR_IA32_SYSENTER_CS, 0xffffffffull);
	EXPECT_LE(NR_WRITES, exits_of_writes(vcpu, MSR_IA32_SYSENTER_CS));
	EXPECT_GT(NR_WRITES, exits_of_writes(vcpu, MSR_GS_BASE));
	kvm_device_attr_set(self->h.device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL);
	EXPECT_GT(NR_WRITES, exits_of_writes(vcpu, MSR_IA32_SYSENTER_CS));
}

HEKI_TEST(msrs, what_is_not_pinned_is_free)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	EXPECT_TRUE(is_taken(vcpu, MSR_LSTAR, 0x1000));
	seal_msr(&self->h, MSR_STAR, ALL);
	EXPECT_TRUE(is_taken(vcpu, MSR_LSTAR, 0x2000));
	EXPECT_EQ(0, heki_query_pin(&self->h, vcpu, HEKI_REG_MSR, MSR_LSTAR));
}

HEKI_TEST(msrs, shadow_stack_pointers_need_xss)
{
	struct heki_vm *h = &self->h;

	if (!heki_query_pin(h, h->vcpu[0], HEKI_REG_MSR, MSR_IA32_PL0_SSP))
		SKIP(return, "this vCPU has no shadow stacks");
	heki_add_msr(heki_begin_request(h, 0), MSR_IA32_PL0_SSP, ALL);
	EXPECT_EQ(-KVM_EINVAL, heki_send(h, h->vcpu[0]));
	seal_msr(h, MSR_IA32_PL0_SSP, ALL);
}

HEKI_TEST(msrs, a_query_tells_what_can_be_pinned)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_query q = heki_query(h);

	EXPECT_EQ(HEKI_PROT_MSR, q.available & HEKI_PROT_MSR);
	EXPECT_EQ(q.cr0_pinnable, heki_query_pin(h, vcpu, HEKI_REG_CR0, 0));
	EXPECT_EQ(q.cr4_pinnable, heki_query_pin(h, vcpu, HEKI_REG_CR4, 0));
	EXPECT_EQ(0, heki_query_pin(h, vcpu, HEKI_REG_CR0, 1));
	EXPECT_EQ(0, heki_query_pin(h, vcpu, 3, 0));
	EXPECT_EQ(ALL, heki_query_pin(h, vcpu, HEKI_REG_MSR, MSR_LSTAR));
	EXPECT_EQ(0, heki_query_pin(h, vcpu, HEKI_REG_MSR, MSR_GS_BASE));
	EXPECT_EQ(0, heki_query_pin(h, vcpu, HEKI_REG_MSR, MSR_IA32_TSC));
	EXPECT_EQ(0, heki_query_pin(h, vcpu, HEKI_REG_MSR, ~0u));
	EXPECT_EQ(-KVM_EINVAL, heki_hypercall(vcpu, HEKI_OP_QUERY_PIN, HEKI_ANSWER_GPA, 8, 0));
	EXPECT_EQ(-KVM_EINVAL, heki_hypercall(vcpu, HEKI_OP_QUERY_PIN, HEKI_ANSWER_GPA, 17, 0));
	EXPECT_EQ(-KVM_EFAULT, heki_hypercall(vcpu, HEKI_OP_QUERY_PIN, HEKI_HOLE_GPA, 16, 0));
}

/* Those that registers.rs leaves to the guest. */
#define DEBUGCTL_FREE	(DEBUGCTLMSR_LBR | DEBUGCTLMSR_BTF | DEBUGCTLMSR_BUS_LOCK_DETECT | \
			 DEBUGCTLMSR_FREEZE_LBRS_ON_PMI | DEBUGCTLMSR_RTM_DEBUG)

/* KVM refuses or ignores all others: a bit that it newly allows wants a decision. */
HEKI_TEST(msrs, no_bit_of_debugctl_is_new)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	u64 vector;
	int i;

	EXPECT_EQ(0, get_msr(vcpu, MSR_IA32_DEBUGCTLMSR));
	for (i = 0; i < 64; i++) {
		vector = set_msr(vcpu, MSR_IA32_DEBUGCTLMSR, BIT_ULL(i));
		EXPECT_TRUE(!vector || vector == GP_VECTOR) TH_LOG("bit %d: vector %ld", i, (long)vector);
		EXPECT_EQ(0, get_msr(vcpu, MSR_IA32_DEBUGCTLMSR) & ~DEBUGCTL_FREE) TH_LOG("bit %d", i);
		EXPECT_EQ(0, set_msr(vcpu, MSR_IA32_DEBUGCTLMSR, 0));
	}
}

/* What user space answers decides on the #GP only: the pin holds. */
HEKI_TEST(msrs, user_space_may_ask_for_denied_writes)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	struct kvm_run *run = vcpu->run;
	u8 error;

	EXPECT_TRUE(is_taken(vcpu, MSR_LSTAR, 0x1000));
	seal_msr(&self->h, MSR_LSTAR, ALL);
	vm_enable_cap(self->h.vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_INVAL);
	for (error = 0; error <= 1; error++) {
		heki_prepare_call(vcpu, guest_wrmsr, (u64[HEKI_NR_ARGS]){ MSR_LSTAR, 0x2000 });
		vcpu_run(vcpu);
		ASSERT_EQ(KVM_EXIT_X86_WRMSR, run->exit_reason);
		EXPECT_EQ(KVM_MSR_EXIT_REASON_INVAL, run->msr.reason);
		EXPECT_EQ(0x2000, run->msr.data);
		EXPECT_EQ(error + 1, vcpu_get_stat(vcpu, heki_denied_msr));
		run->msr.error = error;
		vcpu_run(vcpu);
		EXPECT_EQ(error ? GP_VECTOR : 0, heki_finish_call(vcpu));
		EXPECT_EQ(0x1000, get_msr(vcpu, MSR_LSTAR));
	}
}

/* With XCR0 at 1 the compiler's own code still runs: it uses no AVX. */
HEKI_TEST(msrs, xcr0_cannot_be_changed)
{
	struct heki_vm *h = &self->h;
	u64 mask = heki_query_pin(h, h->vcpu[0], HEKI_REG_XCR0, 0);
	u64 xcr0;
	int i;

	if (!mask)
		SKIP(return, "this vCPU has no XSAVE");
	xcr0 = heki_call(h->vcpu[0], guest_xgetbv);
	EXPECT_NE(1, xcr0);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_xsetbv, 0, 1));
	EXPECT_EQ(1, heki_call(h->vcpu[0], guest_xgetbv));
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_xsetbv, 0, xcr0));

	EXPECT_EQ(xcr0, xcr0 & mask);
	heki_add_pin(heki_begin_request(h, 0), HEKI_REG_XCR0, mask);
	heki_seal(h);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[i], guest_xsetbv, 0, 1));
		EXPECT_EQ(xcr0, heki_call(h->vcpu[i], guest_xgetbv));
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_xsetbv, 0, xcr0));
		EXPECT_EQ(1, vcpu_get_stat(h->vcpu[i], heki_denied_msr));
	}
	if (!kvm_is_forced_emulation_enabled())
		return;
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_fep_xsetbv, 0, 1));
	EXPECT_EQ(xcr0, heki_call(h->vcpu[0], guest_xgetbv));
	EXPECT_EQ(2, vcpu_get_stat(h->vcpu[0], heki_denied_msr));
}

/* What goes with a bit of XCR0 that is cleared. */
static u64 without_xcr0_bit(u64 xcr0, u64 bit)
{
	if (bit & XFEATURE_MASK_SSE)
		return xcr0 & ~(XFEATURE_MASK_SSE | XFEATURE_MASK_YMM | XFEATURE_MASK_AVX512);
	if (bit & XFEATURE_MASK_YMM)
		return xcr0 & ~(XFEATURE_MASK_YMM | XFEATURE_MASK_AVX512);
	if (bit & XFEATURE_MASK_AVX512)
		return xcr0 & ~XFEATURE_MASK_AVX512;
	if (bit & (XFEATURE_MASK_BNDREGS | XFEATURE_MASK_BNDCSR))
		return xcr0 & ~(XFEATURE_MASK_BNDREGS | XFEATURE_MASK_BNDCSR);
	if (bit & XFEATURE_MASK_XTILE)
		return xcr0 & ~XFEATURE_MASK_XTILE;
	return xcr0 & ~bit;
}

/* With the bit alone pinned, from one value to another. */
static bool is_xcr0_bit_held(struct heki_vm *h, u64 bit, u64 from, u64 to)
{
	struct kvm_vcpu *vcpu = h->vcpu[0];
	bool held;

	if (heki_call(vcpu, guest_xsetbv, 0, to) || heki_call(vcpu, guest_xsetbv, 0, from))
		return false;
	heki_add_pin(heki_begin_request(h, 0), HEKI_REG_XCR0, bit);
	heki_seal(h);
	held = heki_call(vcpu, guest_xsetbv, 0, to) == GP_VECTOR &&
	       heki_call(vcpu, guest_xgetbv) == from && !heki_call(vcpu, guest_xsetbv, 0, from);
	kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL);
	return held;
}

/* Neither cleared nor set. That of the x87 is always set. */
HEKI_TEST(msrs, no_bit_of_xcr0_can_be_changed)
{
	struct heki_vm *h = &self->h;
	u64 xcr0, less, bits, bit;

	if (!heki_query_pin(h, h->vcpu[0], HEKI_REG_XCR0, 0))
		SKIP(return, "this vCPU has no XSAVE");
	xcr0 = heki_call(h->vcpu[0], guest_xgetbv);
	for (bits = xcr0 & ~XFEATURE_MASK_FP; bits; bits &= ~bit) {
		bit = bits & -bits;
		less = without_xcr0_bit(xcr0, bit);
		EXPECT_TRUE(is_xcr0_bit_held(h, bit, xcr0, less)) TH_LOG("%#lx", bit);
		EXPECT_TRUE(is_xcr0_bit_held(h, bit, less, xcr0)) TH_LOG("%#lx", bit);
	}
}

/* A hypervisor loads registers from memory of its own choice: nothing is promised there. */
HEKI_TEST(msrs, a_hypervisor_gets_no_pins)
{
	struct heki_vm h;

	if (!kvm_cpu_has(X86_FEATURE_VMX) && !kvm_cpu_has(X86_FEATURE_SVM))
		SKIP(return, "no nested virtualization on this host");
	__heki_vm_create(&h, 1, HEKI_VM_NESTED, VM_MEM_SRC_ANONYMOUS);
	EXPECT_EQ(0, heki_query(&h).available & HEKI_PROT_MSR);
	EXPECT_EQ(0, heki_query_pin(&h, h.vcpu[0], HEKI_REG_MSR, MSR_LSTAR));
	heki_add_msr(heki_begin_request(&h, 0), MSR_LSTAR, ALL);
	EXPECT_EQ(-KVM_EOPNOTSUPP, heki_send(&h, h.vcpu[0]));
	heki_vm_free(&h);
}

/*
 * The interrupt descriptor table
 */

FIXTURE(idt) {
	struct heki_vm h;
	u64 base;
	u64 limit;
};

#define OTHER_IDT	HEKI_PAGE(0)	/* a copy of the table */

static u64 guest_fep_lidt(u64 *arg)
{
	struct desc_ptr dt = { .address = arg[0], .size = arg[1] };

	return kvm_asm_safe_fep("lidt %[dt]", [dt]"m"(dt));
}

static u64 guest_lidt_often(u64 *arg)
{
	struct desc_ptr dt = get_idt();
	int i;

	for (i = 0; i < NR_WRITES; i++)
		asm volatile("lidt %0" : : "m"(dt));
	return 0;
}

static u64 guest_idt_base(u64 *arg)
{
	return get_idt().address;
}

static u64 guest_idt_limit(u64 *arg)
{
	return get_idt().size;
}

/* The other seven, of which VMX makes exits too. */
static u64 guest_use_tables(u64 *arg)
{
	struct desc_ptr gdt = get_gdt(), idt = get_idt(), again;
	u16 tr, ldt = 1;

	asm volatile("lgdt %0" : : "m"(gdt));
	asm volatile("lidt %0" : : "m"(idt));
	asm volatile("str %0" : "=m"(tr));
	asm volatile("lldt %w0" : : "r"(0));
	asm volatile("sldt %0" : "=m"(ldt));
	again = get_gdt();
	return ldt || again.address != gdt.address || again.size != gdt.size || tr != get_tr();
}

FIXTURE_SETUP(idt)
{
	struct heki_vm *h = &self->h;

	heki_vm_create(h, NR_VCPUS);
	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "LIDT cannot be made to exit on this host");
	self->base = heki_call(h->vcpu[0], guest_idt_base);
	self->limit = heki_call(h->vcpu[0], guest_idt_limit);
	memcpy(heki_hva(h, OTHER_IDT), addr_gva2hva(h->vm, self->base), PAGE_SIZE);
}

FIXTURE_TEARDOWN(idt)
{
	heki_vm_free(&self->h);
}

static void seal_idt(struct heki_vm *h)
{
	heki_add_tables(heki_begin_request(h, 0), HEKI_REG_IDTR);
	heki_seal(h);
}

/* A load is refused with #GP and counted once; the table stays. */
static bool is_idt_refused(struct kvm_vcpu *vcpu, u64 base, u64 limit)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_msr);
	u64 old_base = heki_call(vcpu, guest_idt_base);
	u64 old_limit = heki_call(vcpu, guest_idt_limit);

	return heki_call(vcpu, guest_lidt, base, limit) == GP_VECTOR &&
	       heki_call(vcpu, guest_idt_base) == old_base &&
	       heki_call(vcpu, guest_idt_limit) == old_limit &&
	       vcpu_get_stat(vcpu, heki_denied_msr) == denied + 1;
}

HEKI_TEST(idt, unsealed_it_can_be_moved)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	EXPECT_EQ(0, heki_call(vcpu, guest_lidt, OTHER_IDT, self->limit));
	EXPECT_EQ(OTHER_IDT, heki_call(vcpu, guest_idt_base));
	EXPECT_EQ(0, heki_call(vcpu, guest_lidt, self->base, self->limit));
}

HEKI_TEST(idt, it_cannot_be_moved_on_any_vcpu)
{
	struct heki_vm *h = &self->h;
	int i;

	seal_idt(h);
	EXPECT_EQ(HEKI_PROT_DT, heki_query(h).held);
	heki_add_vcpu(h, LATER, 0);
	for (i = 0; i <= LATER; i++) {
		EXPECT_TRUE(is_idt_refused(h->vcpu[i], OTHER_IDT, self->limit));
		EXPECT_TRUE(is_idt_refused(h->vcpu[i], self->base, self->limit - 16));
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_lidt, self->base, self->limit));
		EXPECT_EQ(2, vcpu_get_stat(h->vcpu[i], heki_denied_msr));
	}
}

/* LIDT of nothing, then an exception: the last thing that Linux tries to reboot. */
static bool ends_itself(struct kvm_vcpu *vcpu)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_msr);

	heki_prepare_call(vcpu, guest_triple_fault, (u64[HEKI_NR_ARGS]){});
	vcpu_run(vcpu);
	return vcpu->run->exit_reason == KVM_EXIT_SHUTDOWN &&
	       vcpu_get_stat(vcpu, heki_denied_msr) == denied;
}

/* With any entry at all it would be another table. */
HEKI_TEST(idt, a_vcpu_may_end_itself)
{
	struct heki_vm *h = &self->h;

	EXPECT_TRUE(ends_itself(h->vcpu[1]));
	seal_idt(h);
	EXPECT_TRUE(is_idt_refused(h->vcpu[0], OTHER_IDT, self->limit));
	EXPECT_TRUE(is_idt_refused(h->vcpu[0], 0, 1));
	EXPECT_TRUE(ends_itself(h->vcpu[0]));
	heki_add_vcpu(h, LATER, 0);
	EXPECT_TRUE(is_idt_refused(h->vcpu[LATER], OTHER_IDT, self->limit));
}

HEKI_TEST(idt, the_emulator_refuses_too)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	seal_idt(&self->h);
	EXPECT_EQ(GP_VECTOR, heki_call(vcpu, guest_fep_lidt, OTHER_IDT, self->limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_fep_lidt, self->base, self->limit));
	EXPECT_EQ(self->base, heki_call(vcpu, guest_idt_base));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

HEKI_TEST(idt, other_tables_are_free)
{
	EXPECT_EQ(0, heki_call(self->h.vcpu[0], guest_use_tables));
	seal_idt(&self->h);
	EXPECT_EQ(0, heki_call(self->h.vcpu[0], guest_use_tables));
	EXPECT_EQ(0, vcpu_get_stat(self->h.vcpu[0], heki_denied_msr));
}

static u64 exits_of_lidt(struct kvm_vcpu *vcpu)
{
	u64 before = vcpu_get_stat(vcpu, exits);

	heki_call(vcpu, guest_lidt_often);
	return vcpu_get_stat(vcpu, exits) - before;
}

HEKI_TEST(idt, only_a_pinned_idt_exits)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	EXPECT_GT(NR_WRITES, exits_of_lidt(vcpu));
	seal_idt(&self->h);
	EXPECT_LE(NR_WRITES, exits_of_lidt(vcpu));
	kvm_device_attr_set(self->h.device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL);
	EXPECT_GT(NR_WRITES, exits_of_lidt(vcpu));
	EXPECT_EQ(0, heki_call(vcpu, guest_lidt, OTHER_IDT, self->limit));
}

/* Also where only a part of the register is pinned. */
HEKI_TEST(idt, its_limit_alone_can_be_held)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	heki_add_part(heki_begin_request(&self->h, 0), HEKI_REG_IDTR, 1, 0xffff);
	heki_seal(&self->h);
	EXPECT_TRUE(is_idt_refused(vcpu, self->base, self->limit - 16));
	EXPECT_EQ(0, heki_call(vcpu, guest_lidt, OTHER_IDT, self->limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_lidt, self->base, self->limit));
}

/*
 * The other tables
 */

FIXTURE(tables) {
	struct heki_vm h;
	struct kvm_sregs sregs;		/* of each vCPU to begin with */
};

#define OTHER_GDT	HEKI_PAGE(0)	/* a copy of the table */
#define OTHER_TSS	HEKI_PAGE(1)
#define SOME_LDT	HEKI_PAGE(2)
#define LDT_SELECTOR	0x28
#define LDT_SELECTOR_2	0x40
#define TSS_SELECTOR	0x50
#define TSS_LIMIT	0x67

static u64 guest_fep_lgdt(u64 *arg)
{
	struct desc_ptr dt = { .address = arg[0], .size = arg[1] };

	return kvm_asm_safe_fep("lgdt %[dt]", [dt]"m"(dt));
}

/* arg[0]: selector */
static u64 guest_fep_lldt(u64 *arg)
{
	return kvm_asm_safe_fep("lldt %w[ldt]", [ldt]"r"((u32)arg[0]));
}

static u64 guest_fep_ltr(u64 *arg)
{
	return kvm_asm_safe_fep("ltr %w[tr]", [tr]"r"((u32)arg[0]));
}

FIXTURE_SETUP(tables)
{
	struct heki_vm *h = &self->h;

	heki_vm_create(h, NR_VCPUS);
	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads cannot be made to exit on this host");
	heki_put_descriptor(h, LDT_SELECTOR, HEKI_DESC_LDT, SOME_LDT, PAGE_SIZE - 1);
	heki_put_descriptor(h, LDT_SELECTOR_2, HEKI_DESC_LDT, SOME_LDT, PAGE_SIZE - 1);
	heki_put_descriptor(h, TSS_SELECTOR, HEKI_DESC_TSS, OTHER_TSS, TSS_LIMIT);
	memcpy(heki_hva(h, OTHER_GDT), addr_gva2hva(h->vm, h->vm->arch.gdt), PAGE_SIZE);
	vcpu_sregs_get(h->vcpu[0], &self->sregs);
}

FIXTURE_TEARDOWN(tables)
{
	heki_vm_free(&self->h);
}

static void seal_tables(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, 0);

	heki_add_tables(req, HEKI_REG_GDTR);
	heki_add_tables(req, HEKI_REG_LDTR);
	heki_add_tables(req, HEKI_REG_TR);
	heki_seal(h);
}

static bool are_same(const struct kvm_sregs *a, const struct kvm_sregs *b)
{
	return a->gdt.base == b->gdt.base && a->gdt.limit == b->gdt.limit &&
	       a->ldt.selector == b->ldt.selector && a->ldt.base == b->ldt.base &&
	       a->tr.selector == b->tr.selector && a->tr.base == b->tr.base &&
	       a->tr.limit == b->tr.limit;
}

/* A load is refused with #GP and counted once; all tables stay. */
static bool is_load_refused(struct kvm_vcpu *vcpu, u64 (*load)(u64 *), u64 arg0, u64 arg1)
{
	u64 denied = vcpu_get_stat(vcpu, heki_denied_msr);
	struct kvm_sregs before, after;
	u64 vector;

	vcpu_sregs_get(vcpu, &before);
	vector = heki_call(vcpu, load, arg0, arg1);
	vcpu_sregs_get(vcpu, &after);
	return vector == GP_VECTOR && are_same(&before, &after) &&
	       vcpu_get_stat(vcpu, heki_denied_msr) == denied + 1;
}

HEKI_TEST(tables, unsealed_they_can_be_changed)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];
	struct kvm_sregs now;

	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, OTHER_GDT, self->sregs.gdt.limit - 8));
	EXPECT_EQ(0, heki_call(vcpu, guest_lldt, LDT_SELECTOR));
	EXPECT_EQ(0, heki_call(vcpu, guest_ltr, TSS_SELECTOR));
	vcpu_sregs_get(vcpu, &now);
	EXPECT_EQ(OTHER_GDT, now.gdt.base);
	EXPECT_EQ(self->sregs.gdt.limit - 8, now.gdt.limit);
	EXPECT_EQ(LDT_SELECTOR, now.ldt.selector);
	EXPECT_EQ(OTHER_TSS, now.tr.base);

	/* The same selector means what the table says of it. */
	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, self->sregs.gdt.base, self->sregs.gdt.limit));
	heki_put_descriptor(&self->h, TSS_SELECTOR, HEKI_DESC_TSS, SOME_LDT, TSS_LIMIT);
	EXPECT_EQ(0, heki_call(vcpu, guest_ltr, TSS_SELECTOR));
	vcpu_sregs_get(vcpu, &now);
	EXPECT_EQ(SOME_LDT, now.tr.base);
}

/* The vCPU that comes later is up before it first runs. */
HEKI_TEST(tables, they_cannot_be_changed_on_any_vcpu)
{
	const struct kvm_dtable *gdt = &self->sregs.gdt;
	struct heki_vm *h = &self->h;
	int i;

	seal_tables(h);
	EXPECT_EQ(HEKI_PROT_DT, heki_query(h).held);
	heki_add_vcpu(h, LATER, 0);
	for (i = 0; i <= LATER; i++) {
		EXPECT_TRUE(is_load_refused(h->vcpu[i], guest_lgdt, OTHER_GDT, gdt->limit));
		EXPECT_TRUE(is_load_refused(h->vcpu[i], guest_lgdt, gdt->base, gdt->limit - 8));
		EXPECT_TRUE(is_load_refused(h->vcpu[i], guest_lldt, LDT_SELECTOR, 0));
		EXPECT_TRUE(is_load_refused(h->vcpu[i], guest_ltr, TSS_SELECTOR, 0));
		EXPECT_EQ(0, heki_call(h->vcpu[i], guest_use_tables));
		EXPECT_EQ(4, vcpu_get_stat(h->vcpu[i], heki_denied_msr));
	}
}

/* A refused LTR does not make the descriptor busy, or the second would fail for that. */
HEKI_TEST(tables, the_selector_alone_is_not_enough)
{
	u16 selector = self->sregs.tr.selector;
	struct heki_vm *h = &self->h;

	seal_tables(h);
	heki_put_descriptor(h, selector, HEKI_DESC_TSS, OTHER_TSS, self->sregs.tr.limit);
	EXPECT_TRUE(is_load_refused(h->vcpu[0], guest_ltr, selector, 0));
	EXPECT_TRUE(is_load_refused(h->vcpu[0], guest_ltr, selector, 0));
	heki_put_descriptor(h, selector, HEKI_DESC_TSS, self->sregs.tr.base, TSS_LIMIT + 1);
	EXPECT_TRUE(is_load_refused(h->vcpu[0], guest_ltr, selector, 0));
	heki_put_descriptor(h, selector, HEKI_DESC_TSS, self->sregs.tr.base,
			    self->sregs.tr.limit);
	EXPECT_EQ(0, heki_call(h->vcpu[0], guest_ltr, selector));
}

/* As Linux does, which has an entry for the LDT of the process. */
HEKI_TEST(tables, some_selectors_can_be_left_to_the_guest)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	heki_add_part(heki_begin_request(&self->h, 0), HEKI_REG_LDTR, 0,
		       0xffff & ~LDT_SELECTOR);
	heki_seal(&self->h);
	EXPECT_EQ(0, heki_call(vcpu, guest_lldt, LDT_SELECTOR));
	EXPECT_TRUE(is_load_refused(vcpu, guest_lldt, LDT_SELECTOR_2, 0));
	EXPECT_EQ(0, heki_call(vcpu, guest_lldt, 0));
	/* The other tables are free. */
	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, OTHER_GDT, self->sregs.gdt.limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_ltr, TSS_SELECTOR));
}

HEKI_TEST(tables, the_emulator_refuses_too)
{
	const struct kvm_dtable *gdt = &self->sregs.gdt;
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	seal_tables(&self->h);
	EXPECT_TRUE(is_load_refused(vcpu, guest_fep_lgdt, OTHER_GDT, gdt->limit));
	EXPECT_TRUE(is_load_refused(vcpu, guest_fep_lldt, LDT_SELECTOR, 0));
	EXPECT_TRUE(is_load_refused(vcpu, guest_fep_ltr, TSS_SELECTOR, 0));
	EXPECT_EQ(0, heki_call(vcpu, guest_fep_lgdt, gdt->base, gdt->limit));
}

HEKI_TEST(tables, a_reset_lets_them_go)
{
	struct kvm_vcpu *vcpu = self->h.vcpu[0];

	seal_tables(&self->h);
	kvm_device_attr_set(self->h.device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_RESET, NULL);
	EXPECT_EQ(0, heki_call(vcpu, guest_lgdt, OTHER_GDT, self->sregs.gdt.limit));
	EXPECT_EQ(0, heki_call(vcpu, guest_lldt, LDT_SELECTOR));
	EXPECT_EQ(0, heki_call(vcpu, guest_ltr, TSS_SELECTOR));
}

/*
 * A task switch, which loads LDTR and TR from memory. There is none in long mode, so
 * this vCPU begins in protected mode, without paging.
 */

#define FLAT_CODE	0x08
#define FLAT_DATA	0x10
#define OLD_TASK	0x18
#define NEW_TASK	0x20
#define TASK_GDT	HEKI_PAGE(8)
#define OLD_TSS		HEKI_PAGE(9)
#define NEW_TSS		HEKI_PAGE(10)
#define OLD_CODE	HEKI_PAGE(11)
#define NEW_CODE	HEKI_PAGE(12)
#define TSS32_BUSY	11

struct tss32 {
	u32 unused[8];
	u32 eip;
	u32 eflags;
	u32 regs[8];
	u32 es, cs, ss, ds, fs, gs, ldt;
	u32 bitmap;
} __packed;

kvm_static_assert(sizeof(struct tss32) == TSS_LIMIT + 1);

FIXTURE(task) {
	struct heki_vm h;
	struct kvm_vcpu *vcpu;		/* the one that switches */
};

FIXTURE_VARIANT(task) {
	bool sealed;
	u32 reg;
};

FIXTURE_VARIANT_ADD(task, unsealed) { .sealed = false };
FIXTURE_VARIANT_ADD(task, tr) { .sealed = true, .reg = HEKI_REG_TR };
FIXTURE_VARIANT_ADD(task, ldtr) { .sealed = true, .reg = HEKI_REG_LDTR };
FIXTURE_VARIANT_ADD(task, others) { .sealed = true, .reg = HEKI_REG_GDTR };

static struct kvm_segment flat_segment(u16 selector, u8 type)
{
	return (struct kvm_segment){
		.selector = selector,
		.limit = ~0u,
		.type = type,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
}

static void put_tasks(struct heki_vm *h)
{
	static const u8 old_code[] = { 0xea, 0, 0, 0, 0, NEW_TASK, 0 };	/* ljmp $NEW_TASK, $0 */
	static const u8 new_code[] = { 0xe6, HEKI_USER_PORT };	/* out %al, $HEKI_USER_PORT */
	static const u64 gdt[] = {
		[FLAT_CODE / 8] = 0x00cf9b000000ffff,
		[FLAT_DATA / 8] = 0x00cf93000000ffff,
		[OLD_TASK / 8] = 0x00008b0000000000 | TSS_LIMIT | (OLD_TSS & 0xffffff) << 16 |
				 (OLD_TSS >> 24) << 56,
		[NEW_TASK / 8] = 0x0000890000000000 | TSS_LIMIT | (NEW_TSS & 0xffffff) << 16 |
				 (NEW_TSS >> 24) << 56,
	};
	const struct tss32 tss = {
		.eip = NEW_CODE,
		.eflags = X86_EFLAGS_FIXED,
		.cs = FLAT_CODE,
		.ss = FLAT_DATA,
		.ds = FLAT_DATA,
		.es = FLAT_DATA,
	};

	memcpy(heki_hva(h, TASK_GDT), gdt, sizeof(gdt));
	memcpy(heki_hva(h, NEW_TSS), &tss, sizeof(tss));
	memcpy(heki_hva(h, OLD_CODE), old_code, sizeof(old_code));
	memcpy(heki_hva(h, NEW_CODE), new_code, sizeof(new_code));
}

static void enter_old_task(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 = X86_CR0_PE | X86_CR0_ET;
	sregs.cr3 = 0;
	sregs.cr4 = 0;
	sregs.efer = 0;
	sregs.cs = flat_segment(FLAT_CODE, 0xb);
	sregs.ds = sregs.es = sregs.ss = flat_segment(FLAT_DATA, 3);
	sregs.fs = sregs.gs = sregs.ds;
	sregs.ldt = (struct kvm_segment){ .unusable = 1 };
	sregs.tr = (struct kvm_segment){
		.base = OLD_TSS,
		.limit = TSS_LIMIT,
		.selector = OLD_TASK,
		.type = TSS32_BUSY,
		.present = 1,
	};
	sregs.gdt = (struct kvm_dtable){ .base = TASK_GDT, .limit = NEW_TASK + 7 };
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_regs_get(vcpu, &regs);
	regs.rip = OLD_CODE;
	regs.rflags = X86_EFLAGS_FIXED;
	vcpu_regs_set(vcpu, &regs);
}

static void switch_tasks(struct heki_vm *h, struct kvm_vcpu *vcpu)
{
	put_tasks(h);
	enter_old_task(vcpu);
	vcpu_run(vcpu);
}

#define NR_SWITCHES	20

/* QEMU has no exit for a task switch. The other one is that of the port. */
static bool switches_exit(struct heki_vm *h, struct kvm_vcpu *vcpu)
{
	u64 before;
	int i;

	switch_tasks(h, vcpu);
	before = vcpu_get_stat(vcpu, exits);
	for (i = 0; i < NR_SWITCHES; i++) {
		vcpu_run_complete_io(vcpu);
		switch_tasks(h, vcpu);
	}
	vcpu_run_complete_io(vcpu);
	return vcpu_get_stat(vcpu, exits) - before >= 2 * NR_SWITCHES;
}

FIXTURE_SETUP(task)
{
	struct heki_vm *h = &self->h;

	heki_vm_create(h, NR_VCPUS);
	self->vcpu = h->vcpu[1];
	if (variant->sealed && !(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads cannot be made to exit on this host");
	if (variant->sealed && !switches_exit(h, self->vcpu))
		SKIP(return, "this emulator lets a guest switch tasks past KVM (QEMU)");
}

FIXTURE_TEARDOWN(task)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(task, a_switch_shuts_the_vcpu_down_where_it_would_change_a_pin)
{
	bool denied = variant->sealed && variant->reg != HEKI_REG_GDTR;
	struct kvm_vcpu *vcpu = self->vcpu;
	struct kvm_sregs sregs;

	if (variant->sealed) {
		heki_add_tables(heki_begin_request(&self->h, 0), variant->reg);
		heki_seal(&self->h);
	}
	switch_tasks(&self->h, vcpu);
	vcpu_sregs_get(vcpu, &sregs);
	EXPECT_EQ(denied, vcpu_get_stat(vcpu, heki_denied_msr));
	if (denied) {
		EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
		EXPECT_EQ(OLD_TSS, sregs.tr.base);
	} else {
		ASSERT_EQ(KVM_EXIT_IO, vcpu->run->exit_reason);
		EXPECT_EQ(HEKI_USER_PORT, vcpu->run->io.port);
		EXPECT_EQ(NEW_TSS, sregs.tr.base);
		EXPECT_EQ(NEW_TASK, sregs.tr.selector);
	}
}

int main(int argc, char *argv[])
{
	heki_require();
	return heki_run_with_forced_emulation(test_harness_run, argc, argv);
}
