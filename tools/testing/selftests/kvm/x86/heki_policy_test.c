// SPDX-License-Identifier: GPL-2.0
/*
 * What the VMM decides: its policy, its answers to requests, the denials that it
 * hears of, the next kernel of a guest, and the pause of a VM.
 */
#include <linux/kvm_para.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

#include "apic.h"
#include "kvm_test_harness.h"
#include "heki.h"

#define NR_VCPUS	2
#define SEALED		0
#define UNPAGED_CODE	5
#define OTHER		1
#define COUNTER		2
#define UNLISTED	3
#define USER_CODE	4

#define KEXEC		(1 << HEKI_OP_KEXEC)
#define ALL_OPS		(1 << HEKI_OP_SEAL | 1 << HEKI_OP_PATCH | \
			 1 << HEKI_OP_GRANT | 1 << HEKI_OP_RELEASE | KEXEC)

static const struct heki_policy everything = {
	.version = HEKI_ABI_VERSION,
	.allowed = HEKI_PROT_ALL,
};

static const struct heki_policy asked = {
	.version = HEKI_ABI_VERSION,
	.allowed = HEKI_PROT_ALL,
	.consent = ALL_OPS,
};

static const struct heki_policy told = {
	.version = HEKI_ABI_VERSION,
	.allowed = HEKI_PROT_ALL,
	.write = HEKI_ACTION_EXIT,
	.exec = HEKI_ACTION_EXIT,
	.reg = HEKI_ACTION_EXIT,
	.patch = HEKI_ACTION_EXIT,
};

/* Zero or the error. */
static int set_policy(struct heki_vm *h, const void *policy)
{
	return __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_POLICY,
				     (void *)policy) ? errno : 0;
}

static int set_attr(struct heki_vm *h, u64 attr)
{
	return __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, attr, NULL) ? errno : 0;
}

static int get_attr(struct heki_vm *h, u64 attr, void *value)
{
	return __kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL, attr, value) ? errno : 0;
}

/* A VM without vCPUs, which is the time for a policy. */
static void begin_vm(struct heki_vm *h, u32 nr_vcpus)
{
	*h = (struct heki_vm){ .device = -1 };
	h->vm = __vm_create(VM_SHAPE_DEFAULT, nr_vcpus, HEKI_TEST_PAGES);
	heki_add_memory(h, VM_MEM_SRC_ANONYMOUS);
	h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
}

static void create_vm(struct heki_vm *h, u32 nr_vcpus, const struct heki_policy *policy)
{
	u32 id;

	begin_vm(h, nr_vcpus);
	TEST_ASSERT(!set_policy(h, policy), "a good policy is refused: %d", errno);
	for (id = 0; id < nr_vcpus; id++)
		heki_add_vcpu(h, id, 0);
}

FIXTURE(policy) {
	struct heki_vm h;
};

FIXTURE_SETUP(policy)
{
	begin_vm(&self->h, NR_VCPUS);
}

FIXTURE_TEARDOWN(policy)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(policy, the_host_says_what_it_can)
{
	struct heki_vm *h = &self->h;
	struct heki_query q;
	struct heki_caps caps;

	memset(&caps, 0xff, sizeof(caps));
	ASSERT_EQ(0, get_attr(h, KVM_DEV_HEKI_CAPS, &caps));
	heki_add_vcpu(h, 0, 0);
	q = heki_query(h);
	EXPECT_EQ(HEKI_ABI_VERSION, caps.version);
	EXPECT_EQ(q.available, caps.protections);
	EXPECT_EQ(q.cr0_pinnable, caps.cr0_pinnable);
	EXPECT_EQ(q.cr4_pinnable, caps.cr4_pinnable);
	EXPECT_EQ(q.patch, q.patch & caps.patch);
	EXPECT_EQ(ALL_OPS, caps.consent);
	EXPECT_EQ((1 << HEKI_CLASS_COUNT) - 1, caps.classes);
	EXPECT_EQ((1 << HEKI_ACTION_COUNT) - 1, caps.actions);
}

static const struct heki_pin asked_pins[] = {
	{ .reg = HEKI_REG_CR0 },
	{ .reg = HEKI_REG_CR4 },
	{ .reg = HEKI_REG_CR4, .index = 1 },
	{ .reg = HEKI_REG_XCR0 },
	{ .reg = HEKI_REG_MSR, .index = MSR_LSTAR },
	{ .reg = HEKI_REG_MSR, .index = MSR_EFER },
	{ .reg = HEKI_REG_MSR, .index = MSR_IA32_MISC_ENABLE },
	{ .reg = HEKI_REG_MSR, .index = MSR_AMD64_DE_CFG },
	{ .reg = HEKI_REG_MSR, .index = MSR_IA32_TSC },
	{ .reg = HEKI_REG_IDTR },
	{ .reg = HEKI_REG_GDTR, .index = 1 },
	{ .reg = HEKI_REG_LDTR },
	{ .reg = HEKI_REG_TR, .index = 2 },
	{ .reg = ~0u, .index = ~0u },
};

/* Zero or the error; if it is zero, @mask is the answer. */
static int get_pin(struct heki_vm *h, u32 reg, u32 index, u64 *mask)
{
	struct heki_pin pin = { .reg = reg, .index = index, .mask = HEKI_CALM };
	int ret = get_attr(h, KVM_DEV_HEKI_PIN, &pin);

	TEST_ASSERT(pin.reg == reg && pin.index == index, "The register is another");
	*mask = pin.mask;
	return ret;
}

/* Does the VMM hear of all of them what the guest hears? */
static bool is_told_the_same(struct heki_vm *h)
{
	u64 mask;
	int i;

	for (i = 0; i < ARRAY_SIZE(asked_pins); i++) {
		const struct heki_pin *pin = &asked_pins[i];

		if (get_pin(h, pin->reg, pin->index, &mask) ||
		    heki_query_pin(h, h->vcpu[0], pin->reg, pin->index) != mask)
			return false;
	}
	return true;
}

HEKI_TEST(policy, the_host_says_what_can_be_pinned)
{
	struct heki_vm *h = &self->h;
	u64 mask;

	EXPECT_EQ(ENXIO, get_pin(h, HEKI_REG_CR0, 0, &mask));
	heki_add_vcpu(h, 0, 0);
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	EXPECT_TRUE(is_told_the_same(h));
	EXPECT_EQ(0, get_pin(h, HEKI_REG_MSR, MSR_LSTAR, &mask));
	EXPECT_EQ(~0ull, mask);

	heki_add_pin(heki_begin_request(h, 0), HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(h);
	EXPECT_TRUE(is_told_the_same(h));
	EXPECT_EQ(0, get_pin(h, HEKI_REG_CR0, 0, &mask));
	EXPECT_EQ(X86_CR0_WP, mask);
	EXPECT_EQ(0, get_pin(h, HEKI_REG_MSR, MSR_LSTAR, &mask));
	EXPECT_EQ(0, mask);
	EXPECT_EQ(EFAULT, get_attr(h, KVM_DEV_HEKI_PIN, NULL));
	EXPECT_EQ(ENXIO, set_attr(h, KVM_DEV_HEKI_PIN));
}

HEKI_TEST(policy, attributes_are_what_they_are)
{
	struct heki_vm *h = &self->h;
	u64 attr, value[16];

	for (attr = 0; attr <= KVM_DEV_HEKI_PIN; attr++)
		EXPECT_EQ(0, __kvm_has_device_attr(h->device, KVM_DEV_HEKI_CTRL, attr));
	EXPECT_NE(0, __kvm_has_device_attr(h->device, KVM_DEV_HEKI_CTRL, attr));
	EXPECT_NE(0, __kvm_has_device_attr(h->device, KVM_DEV_HEKI_CTRL + 1, 0));
	EXPECT_EQ(ENXIO, set_attr(h, KVM_DEV_HEKI_CAPS));
	EXPECT_EQ(ENXIO, get_attr(h, KVM_DEV_HEKI_RESET, value));
	EXPECT_EQ(ENXIO, get_attr(h, KVM_DEV_HEKI_PROFILE, value));
	EXPECT_EQ(ENXIO, get_attr(h, KVM_DEV_HEKI_RESUME, value));
	EXPECT_EQ(EFAULT, get_attr(h, KVM_DEV_HEKI_CAPS, NULL));
	EXPECT_EQ(EFAULT, get_attr(h, KVM_DEV_HEKI_POLICY, NULL));
	EXPECT_EQ(EFAULT, set_policy(h, NULL));
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
}

HEKI_TEST(policy, a_bad_one_is_refused_and_changes_nothing)
{
	struct heki_vm *h = &self->h;
	struct heki_policy p, now;
	int i;

	for (i = 0; i < sizeof(p) / sizeof(u32); i++) {
		p = everything;
		((u32 *)&p)[i] |= BIT(31);
		EXPECT_EQ(EINVAL, set_policy(h, &p)) TH_LOG("word %d", i);
	}
	for (i = offsetof(struct heki_policy, write); i < offsetof(struct heki_policy, reserved);
	     i += sizeof(u32)) {
		p = everything;
		*(u32 *)((void *)&p + i) = HEKI_ACTION_COUNT;
		EXPECT_EQ(EINVAL, set_policy(h, &p)) TH_LOG("action at %d", i);
	}
	p = everything;
	p.consent = 1 << HEKI_OP_QUERY;
	EXPECT_EQ(EINVAL, set_policy(h, &p));
	p = everything;
	p.allowed = HEKI_PROT_EXEC | HEKI_PROT_WRITE;
	EXPECT_EQ(EINVAL, set_policy(h, &p));
	p.allowed = HEKI_PROT_EXEC | HEKI_PROT_CR;
	EXPECT_EQ(EINVAL, set_policy(h, &p));

	EXPECT_EQ(0, get_attr(h, KVM_DEV_HEKI_POLICY, &now));
	EXPECT_EQ(0, memcmp(&now, &everything, sizeof(now)));
	EXPECT_EQ(0, set_policy(h, &told));
	EXPECT_EQ(0, get_attr(h, KVM_DEV_HEKI_POLICY, &now));
	EXPECT_EQ(0, memcmp(&now, &told, sizeof(now)));
}

HEKI_TEST(policy, it_comes_once_and_before_the_first_vcpu)
{
	struct heki_vm *h = &self->h;
	struct heki_policy now;

	EXPECT_EQ(0, set_policy(h, &told));
	EXPECT_EQ(EBUSY, set_policy(h, &everything));
	heki_add_vcpu(h, 0, 0);
	EXPECT_EQ(EBUSY, set_policy(h, &everything));
	EXPECT_EQ(0, get_attr(h, KVM_DEV_HEKI_POLICY, &now));
	EXPECT_EQ(0, memcmp(&now, &told, sizeof(now)));
}

HEKI_TEST(policy, a_late_one_is_refused)
{
	heki_add_vcpu(&self->h, 0, 0);
	EXPECT_EQ(EBUSY, set_policy(&self->h, &told));
}

HEKI_TEST(policy, what_is_not_allowed_is_neither_offered_nor_taken)
{
	struct heki_vm *h = &self->h;
	struct heki_policy p = everything;
	struct heki_query q;

	p.allowed = HEKI_PROT_WRITE;
	ASSERT_EQ(0, set_policy(h, &p));
	heki_add_vcpu(h, 0, 0);
	q = heki_query(h);
	EXPECT_EQ(HEKI_PROT_WRITE, q.available);
	EXPECT_EQ(0, q.cr0_pinnable);
	EXPECT_EQ(0, q.cr4_pinnable);

	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	heki_add_page(heki_begin_request(h, 0), SEALED);
	heki_add_pin(h->request, HEKI_REG_CR0, X86_CR0_WP);
	EXPECT_EQ(-KVM_EOPNOTSUPP, heki_send(h, h->vcpu[0]));
	heki_add_text(h, heki_begin_request(h, HEKI_SEAL_EXEC));
	heki_guest_enable_cr4(h->vcpu[0], X86_CR4_SMEP);
	heki_add_pin(h->request, HEKI_REG_CR4, X86_CR4_SMEP);
	EXPECT_EQ(-KVM_EOPNOTSUPP, heki_send(h, h->vcpu[0]));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], SEALED));

	heki_seal_page(h, SEALED);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
}

HEKI_TEST(policy, pins_alone_may_be_allowed)
{
	struct heki_vm *h = &self->h;
	struct heki_policy p = everything;

	p.allowed = HEKI_PROT_CR;
	ASSERT_EQ(0, set_policy(h, &p));
	heki_add_vcpu(h, 0, 0);
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	heki_add_page(heki_begin_request(h, 0), SEALED);
	EXPECT_EQ(-KVM_EOPNOTSUPP, heki_send(h, h->vcpu[0]));
	heki_begin_request(h, 0);
	heki_add_pin(h->request, HEKI_REG_CR0, X86_CR0_WP);
	EXPECT_EQ(0, heki_send(h, h->vcpu[0]));
}

/*
 * Exits
 */

static struct heki_exit *exit_of(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_HEKI, "exit of vCPU %u is %u (%s)",
		    vcpu->id, vcpu->run->exit_reason, exit_reason_str(vcpu->run->exit_reason));
	return (struct heki_exit *)vcpu->run->padding;
}

/* Lets the vCPU do something that exits. */
static struct heki_exit *call_to_exit(struct kvm_vcpu *vcpu, u64 (*fn)(u64 *), u64 arg0,
				      u64 arg1, u64 arg2)
{
	heki_prepare_call(vcpu, fn, (u64[HEKI_NR_ARGS]){ arg0, arg1, arg2 });
	vcpu_run(vcpu);
	return exit_of(vcpu);
}

/* Lets it go on, to the end. */
static s64 go_on(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	return heki_finish_call(vcpu);
}

static u64 rip_of(struct kvm_vcpu *vcpu)
{
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	return regs.rip;
}

static struct heki_exit *send_to_exit(struct heki_vm *h, struct kvm_vcpu *vcpu)
{
	return call_to_exit(vcpu, guest_hypercall, HEKI_OP_SEAL, HEKI_REQUEST_GPA,
			    heki_request_len(h->request));
}

static bool is_open(struct heki_vm *h)
{
	return heki_query(h).state == HEKI_STATE_OPEN;
}

FIXTURE(consent) {
	struct heki_vm h;
};

FIXTURE_SETUP(consent)
{
	create_vm(&self->h, NR_VCPUS, &asked);
	heki_add_page(heki_begin_request(&self->h, 0), SEALED);
}

FIXTURE_TEARDOWN(consent)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(consent, the_vmm_sees_a_request_and_allows_it)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	struct heki_exit *exit;

	heki_guest_enable_cr0(vcpu, X86_CR0_WP);
	heki_add_pin(h->request, HEKI_REG_CR0, X86_CR0_WP);
	exit = send_to_exit(h, vcpu);
	EXPECT_EQ(HEKI_EXIT_REQUEST, exit->kind);
	EXPECT_EQ(0, exit->flags);
	EXPECT_EQ(1, exit->vcpu);
	EXPECT_EQ(0, exit->cpl);
	EXPECT_EQ(rip_of(vcpu), exit->rip);
	EXPECT_EQ(HEKI_OP_SEAL, exit->op);
	EXPECT_EQ(KVM_EPERM, exit->answer);
	EXPECT_EQ(0, exit->seal_flags);
	EXPECT_EQ(1, exit->nr_ranges);
	EXPECT_EQ(1, exit->nr_pins);
	EXPECT_EQ(0, exit->nr_sites);
	EXPECT_EQ(heki_request_len(h->request), exit->len);
	EXPECT_EQ(0, exit->index);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_seal));

	exit->answer = 0;
	EXPECT_EQ(0, go_on(vcpu));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_seal));
	EXPECT_TRUE(heki_is_sealed(h, vcpu, SEALED));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
}

HEKI_TEST(consent, without_an_answer_it_is_denied)
{
	struct heki_vm *h = &self->h;

	send_to_exit(h, h->vcpu[0]);
	EXPECT_EQ(-KVM_EPERM, go_on(h->vcpu[0]));
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_refused));
	EXPECT_TRUE(is_open(h));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], SEALED));
}

HEKI_TEST(consent, the_guest_gets_the_error_of_the_vmm)
{
	static const struct {
		u32 answer;
		s64 ret;
	} cases[] = {
		{ KVM_EPERM, -KVM_EPERM },
		{ KVM_E2BIG, -KVM_E2BIG },
		{ KVM_EINVAL, -KVM_EINVAL },
		{ KVM_EOPNOTSUPP, -KVM_EOPNOTSUPP },
		/* What is no answer is a denial. */
		{ KVM_ENOSYS, -KVM_EPERM },
		{ KVM_EFAULT, -KVM_EPERM },
		{ -KVM_EINVAL, -KVM_EPERM },
		{ BIT(31), -KVM_EPERM },
	};
	struct heki_vm *h = &self->h;
	int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		send_to_exit(h, h->vcpu[0])->answer = cases[i].answer;
		EXPECT_EQ(cases[i].ret, go_on(h->vcpu[0])) TH_LOG("case %d", i);
		EXPECT_TRUE(is_open(h));
	}
	EXPECT_EQ(i, vcpu_get_stat(h->vcpu[0], heki_refused));
}

/* What is not well formed never gets to the VMM, nor does a QUERY. */
HEKI_TEST(consent, a_bad_request_does_not_exit)
{
	struct heki_vm *h = &self->h;

	h->request->version++;
	EXPECT_EQ(-KVM_EINVAL, heki_send(h, h->vcpu[0]));
	EXPECT_EQ(-KVM_EFAULT, heki_hypercall(h->vcpu[0], HEKI_OP_SEAL, HEKI_HOLE_GPA, 64, 0));
	EXPECT_EQ(-KVM_EPERM, heki_hypercall(h->vcpu[0], HEKI_OP_PATCH, HEKI_REQUEST_GPA, 8, 0));
	EXPECT_TRUE(is_open(h));
}

/* The host has a copy: a guest that changes the block while the VMM looks gains nothing. */
HEKI_TEST(consent, what_was_asked_is_what_happens)
{
	struct heki_vm *h = &self->h;
	struct heki_exit *exit = send_to_exit(h, h->vcpu[0]);

	heki_add_page(heki_begin_request(h, 0), OTHER);
	exit->nr_ranges = 0;
	exit->len = 0;
	exit->op = HEKI_OP_RELEASE;
	exit->answer = 0;
	EXPECT_EQ(0, go_on(h->vcpu[0]));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], OTHER));
}

HEKI_TEST(consent, an_immediate_exit_completes_it)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];

	send_to_exit(h, vcpu)->answer = 0;
	vcpu_run_complete_io(vcpu);
	/* It took effect, but the guest has not run on. */
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_seal));
	EXPECT_EQ(0, go_on(vcpu));
	EXPECT_TRUE(heki_is_sealed(h, vcpu, SEALED));
}

HEKI_TEST(consent, an_immediate_exit_without_an_answer_denies)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_exit *exit = send_to_exit(h, vcpu);

	vcpu_run_complete_io(vcpu);
	/* Too late. */
	exit->answer = 0;
	EXPECT_EQ(-KVM_EPERM, go_on(vcpu));
	EXPECT_TRUE(is_open(h));
}

HEKI_TEST(consent, the_state_counts_when_it_is_answered)
{
	struct heki_vm *h = &self->h;
	struct heki_exit *late = send_to_exit(h, h->vcpu[0]);

	send_to_exit(h, h->vcpu[1])->answer = 0;
	EXPECT_EQ(0, go_on(h->vcpu[1]));
	late->answer = 0;
	EXPECT_EQ(-KVM_EPERM, go_on(h->vcpu[0]));
	EXPECT_EQ(0, vcpu_get_stat(h->vcpu[0], heki_seal));
}

HEKI_TEST(consent, a_reset_forgets_the_request)
{
	struct heki_vm *h = &self->h;
	struct heki_exit *exit = send_to_exit(h, h->vcpu[0]);

	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESET));
	exit->answer = 0;
	EXPECT_EQ(-KVM_EPERM, go_on(h->vcpu[0]));
	EXPECT_TRUE(is_open(h));
}

/* The VMM boots the vCPU anew: no hypercall ends there. */
HEKI_TEST(consent, a_vcpu_that_is_sent_elsewhere_has_no_request)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct kvm_regs regs;

	vcpu_regs_get(vcpu, &regs);
	send_to_exit(h, vcpu)->answer = 0;
	regs.rip = (u64)heki_guest_main;
	regs.rdi = 0;
	vcpu_regs_set(vcpu, &regs);
	heki_prepare_call(vcpu, guest_get_cr0, (u64[HEKI_NR_ARGS]){});
	EXPECT_EQ(X86_CR0_PG, go_on(vcpu) & X86_CR0_PG);
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_seal));
	EXPECT_TRUE(is_open(h));
}

#define MAX_STATE_BYTES	65536

/* Zero or the error. */
static int get_state(struct heki_vm *h, void *bytes, u64 *len)
{
	struct heki_buffer buffer = { .data = (u64)bytes, .len = MAX_STATE_BYTES };
	int ret = get_attr(h, KVM_DEV_HEKI_STATE, &buffer);

	*len = buffer.len;
	return ret;
}

/* What a saved state says of the VM: it begins with that. */
static u32 saved_life(const void *bytes)
{
	const struct heki_saved *header = bytes;
	const struct heki_record *record = (const void *)(header + 1);

	TEST_ASSERT(header->magic == HEKI_SAVED_MAGIC && record->kind == HEKI_RECORD_LIFE,
		    "No saved state");
	return ((const struct heki_life *)(record + 1))->state;
}

static void copy_memory(struct heki_vm *to, struct heki_vm *from, u32 slot)
{
	struct userspace_mem_region *region = memslot2region(from->vm, slot);

	memcpy(memslot2region(to->vm, slot)->host_mem, region->host_mem, region->region.memory_size);
}

/* Puts vCPU 0 where that of a VM of the same layout is. */
static void move_vcpu(struct heki_vm *to, struct heki_vm *from)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	copy_memory(to, from, 0);
	copy_memory(to, from, HEKI_TEST_SLOT);
	copy_memory(to, from, HEKI_REQUEST_SLOT);
	vcpu_sregs_get(from->vcpu[0], &sregs);
	vcpu_sregs_set(to->vcpu[0], &sregs);
	vcpu_regs_get(from->vcpu[0], &regs);
	vcpu_regs_set(to->vcpu[0], &regs);
}

/* It is not in the state: the vCPU asks again, and the VMM that has the VM now answers. */
HEKI_TEST(consent, a_request_without_an_answer_is_not_saved)
{
	u8 bytes[MAX_STATE_BYTES] __aligned(8);
	struct heki_vm *h = &self->h, to;
	struct heki_exit *exit;
	u64 len;

	exit = send_to_exit(h, h->vcpu[0]);
	ASSERT_EQ(0, get_state(h, bytes, &len));
	EXPECT_EQ(HEKI_STATE_OPEN, saved_life(bytes));

	create_vm(&to, NR_VCPUS, &asked);
	ASSERT_EQ(0, __kvm_device_attr_set(to.device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_STATE,
					   &(struct heki_buffer){ (u64)bytes, len }));
	move_vcpu(&to, h);
	/* With what the first one answers, the second has nothing to do. */
	exit->answer = 0;
	vcpu_run(to.vcpu[0]);
	exit = exit_of(to.vcpu[0]);
	EXPECT_EQ(HEKI_EXIT_REQUEST, exit->kind);
	EXPECT_EQ(HEKI_OP_SEAL, exit->op);
	EXPECT_EQ(KVM_EPERM, exit->answer);
	vcpu_run_complete_io(to.vcpu[0]);
	ASSERT_EQ(0, get_state(&to, bytes, &len));
	EXPECT_EQ(HEKI_STATE_OPEN, saved_life(bytes));
	EXPECT_EQ(1, vcpu_get_stat(to.vcpu[0], heki_refused));
	heki_vm_free(&to);

	/* To be saved is not to be answered. */
	EXPECT_EQ(0, go_on(h->vcpu[0]));
	ASSERT_EQ(0, get_state(h, bytes, &len));
	EXPECT_EQ(HEKI_STATE_SEALED, saved_life(bytes));
}

/* The teardown frees what is left. */
HEKI_TEST(consent, a_vm_may_end_with_a_request)
{
	send_to_exit(&self->h, self->h.vcpu[0]);
	send_to_exit(&self->h, self->h.vcpu[1]);
}

/* A signal that only KVM_RUN lets through, as VMMs stop a vCPU with. */
HEKI_TEST(consent, a_signal_keeps_nothing_from_its_end)
{
	u8 none[sizeof(struct kvm_signal_mask) + sizeof(u64)] __aligned(sizeof(u32)) = {};
	struct kvm_signal_mask *mask = (void *)none;
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	sigset_t usr1;
	int i, sig;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	ASSERT_EQ(0, pthread_sigmask(SIG_BLOCK, &usr1, NULL));
	mask->len = sizeof(u64);
	vcpu_ioctl(vcpu, KVM_SET_SIGNAL_MASK, mask);
	send_to_exit(h, vcpu)->answer = 0;
	raise(SIGUSR1);
	for (i = 0; i < 2; i++) {
		EXPECT_EQ(-1, __vcpu_run(vcpu));
		EXPECT_EQ(EINTR, errno);
		EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_seal));
	}
	ASSERT_EQ(0, sigwait(&usr1, &sig));
	EXPECT_EQ(0, go_on(vcpu));
	EXPECT_TRUE(heki_is_sealed(h, vcpu, SEALED));
}

/* A sealed VM with a request that waits; says so and waits for its end. */
static void wait_with_a_request(int ready)
{
	struct heki_vm h;

	create_vm(&h, NR_VCPUS, &asked);
	heki_add_page(heki_begin_request(&h, 0), SEALED);
	send_to_exit(&h, h.vcpu[0])->answer = 0;
	TEST_ASSERT(!go_on(h.vcpu[0]), "SEAL failed");
	*(struct heki_patch *)h.request =
		(struct heki_patch){ .version = HEKI_ABI_VERSION, .nr_sites = 1 };
	call_to_exit(h.vcpu[1], guest_hypercall, HEKI_OP_PATCH, HEKI_REQUEST_GPA,
		     sizeof(struct heki_patch) + sizeof(struct heki_site));
	TEST_ASSERT(write(ready, "", 1) == 1, "The parent is gone");
	for (;;)
		pause();
}

HEKI_TEST(consent, a_vmm_may_be_killed_with_a_request)
{
	int before = heki_count_vms(), ready[2], status, i;
	pid_t vmm;
	char c;

	ASSERT_EQ(0, pipe(ready));
	vmm = fork();
	ASSERT_LE(0, vmm);
	if (!vmm)
		wait_with_a_request(ready[1]);
	close(ready[1]);
	EXPECT_EQ(1, read(ready[0], &c, 1));
	EXPECT_LT(before, heki_count_vms());
	EXPECT_EQ(0, kill(vmm, SIGKILL));
	ASSERT_EQ(vmm, waitpid(vmm, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	for (i = 0; i < 1000 && heki_count_vms() != before; i++)
		usleep(1000);
	EXPECT_EQ(before, heki_count_vms());
}

HEKI_TEST(consent, each_operation_is_asked_about)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_patch *patch = (void *)h->request;
	struct heki_grant *grant = (void *)h->request;
	struct heki_range *range = (void *)(grant + 1);
	struct heki_exit *exit;

	send_to_exit(h, vcpu)->answer = 0;
	ASSERT_EQ(0, go_on(vcpu));

	memset(patch, 0, PAGE_SIZE);
	*patch = (struct heki_patch){ .version = HEKI_ABI_VERSION, .nr_sites = 1 };
	exit = call_to_exit(vcpu, guest_hypercall, HEKI_OP_PATCH, HEKI_REQUEST_GPA,
			    sizeof(*patch) + sizeof(struct heki_site));
	EXPECT_EQ(HEKI_OP_PATCH, exit->op);
	EXPECT_EQ(1, exit->nr_sites);
	EXPECT_EQ(-KVM_EPERM, go_on(vcpu));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_denied_patch));

	*grant = (struct heki_grant){ .version = HEKI_ABI_VERSION, .nr_ranges = 1 };
	*range = (struct heki_range){
		.gpa = HEKI_PAGE(OTHER),
		.len = PAGE_SIZE,
		.va = HEKI_PAGE(OTHER),
		.rights = HEKI_EXEC,
		.kind = HEKI_KIND_POOL,
	};
	exit = call_to_exit(vcpu, guest_hypercall, HEKI_OP_GRANT, HEKI_REQUEST_GPA,
			    sizeof(*grant) + sizeof(*range));
	EXPECT_EQ(HEKI_OP_GRANT, exit->op);
	EXPECT_EQ(1, exit->nr_ranges);
	EXPECT_EQ(-KVM_EPERM, go_on(vcpu));
	EXPECT_TRUE(heki_is_writable(h, vcpu, OTHER));

	/* The same with consent: the page is all INT3, and no longer written. */
	memset(heki_hva(h, HEKI_PAGE(OTHER)), 0xcc, PAGE_SIZE);
	call_to_exit(vcpu, guest_hypercall, HEKI_OP_GRANT, HEKI_REQUEST_GPA,
		     sizeof(*grant) + sizeof(*range))->answer = 0;
	EXPECT_EQ(0, go_on(vcpu));
	EXPECT_TRUE(heki_is_sealed(h, vcpu, OTHER));

	range->rights = 0;
	exit = call_to_exit(vcpu, guest_hypercall, HEKI_OP_RELEASE, HEKI_REQUEST_GPA,
			    sizeof(*grant) + sizeof(*range));
	EXPECT_EQ(HEKI_OP_RELEASE, exit->op);
	EXPECT_EQ(-KVM_EPERM, go_on(vcpu));
	EXPECT_TRUE(heki_is_sealed(h, vcpu, OTHER));
}

/*
 * Denials
 */

FIXTURE(denial) {
	struct heki_vm h;
};

FIXTURE_SETUP(denial)
{
	create_vm(&self->h, NR_VCPUS, &told);
}

FIXTURE_TEARDOWN(denial)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(denial, of_a_write_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	struct heki_exit *exit;

	heki_map_alias(h, SEALED);
	heki_seal_page(h, SEALED);
	heki_calm_page(h, SEALED);
	exit = call_to_exit(vcpu, guest_write, HEKI_ALIAS(SEALED) + 24, HEKI_ATTACK, 0);
	EXPECT_EQ(HEKI_EXIT_DENIAL, exit->kind);
	EXPECT_EQ(HEKI_EXIT_HAS_GPA, exit->flags & ~HEKI_EXIT_HAS_VA);
	EXPECT_EQ(1, exit->vcpu);
	EXPECT_EQ(0, exit->cpl);
	EXPECT_EQ(rip_of(vcpu), exit->rip);
	EXPECT_EQ(HEKI_CLASS_WRITE, exit->denied);
	EXPECT_EQ(HEKI_REASON_SEALED, exit->reason);
	EXPECT_EQ(HEKI_PAGE(SEALED) + 24, exit->gpa);
	/* Not every processor tells. */
	EXPECT_EQ(exit->flags & HEKI_EXIT_HAS_VA ? HEKI_ALIAS(SEALED) + 24 : 0, exit->va);
	EXPECT_EQ(0, exit->bits);
	EXPECT_EQ(0, exit->value);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_write));
	EXPECT_EQ(GP_VECTOR, go_on(vcpu));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_write));
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	/* Nobody else hears of it. */
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], OTHER));
}

HEKI_TEST(denial, in_the_emulator_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_exit *exit;

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	heki_map_alias(h, SEALED);
	heki_seal_page(h, SEALED);
	exit = call_to_exit(vcpu, guest_fep_write, HEKI_ALIAS(SEALED) + 16, HEKI_ATTACK, 0);
	EXPECT_EQ(HEKI_EXIT_HAS_GPA | HEKI_EXIT_HAS_VA, exit->flags);
	EXPECT_EQ(HEKI_CLASS_WRITE, exit->denied);
	EXPECT_EQ(HEKI_PAGE(SEALED) + 16, exit->gpa);
	EXPECT_EQ(HEKI_ALIAS(SEALED) + 16, exit->va);
	EXPECT_EQ(GP_VECTOR, go_on(vcpu));
}

/* Puts a store to an address there, and one to the port. */
static void put_user_store(struct heki_vm *h, u64 gpa, u64 to)
{
	static const u8 store[] = { 0x48, 0xa3 };	/* movabs %rax, to */

	memcpy(heki_hva(h, gpa), store, sizeof(store));
	memcpy(heki_hva(h, gpa + sizeof(store)), &to, sizeof(to));
	heki_put_user_code(h, gpa + sizeof(store) + sizeof(to));
}

/* The vCPU has no stack for the #GP there, and shuts down. */
HEKI_TEST(denial, of_user_mode_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	gva_t code = heki_map_alias(h, USER_CODE);
	struct heki_exit *exit;

	heki_map_user(h, heki_map_alias(h, SEALED));
	heki_map_user(h, code);
	put_user_store(h, HEKI_PAGE(USER_CODE), HEKI_ALIAS(SEALED) + 8);
	heki_calm_page(h, SEALED);
	EXPECT_TRUE(heki_run_user(vcpu, code));
	EXPECT_FALSE(heki_page_is_calm(h, SEALED));

	heki_seal_page(h, SEALED);
	heki_calm_page(h, SEALED);
	EXPECT_FALSE(heki_run_user(vcpu, code));
	exit = exit_of(vcpu);
	EXPECT_EQ(HEKI_EXIT_DENIAL, exit->kind);
	EXPECT_EQ(3, exit->cpl);
	EXPECT_EQ(code, exit->rip);
	EXPECT_EQ(HEKI_CLASS_WRITE, exit->denied);
	EXPECT_EQ(HEKI_PAGE(SEALED) + 8, exit->gpa);
	vcpu_run(vcpu);
	EXPECT_EQ(KVM_EXIT_SHUTDOWN, vcpu->run->exit_reason);
	EXPECT_TRUE(heki_page_is_calm(h, SEALED));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], OTHER));
}

struct register_denial {
	u32 reg;
	u32 index;
	u64 bits;
	u64 value;	/* what the guest would have loaded */
};

/* And then the guest hears of it. */
static void expect_register_denial(struct __test_metadata *_metadata, struct kvm_vcpu *vcpu,
				   struct heki_exit *exit, struct register_denial denial)
{
	EXPECT_EQ(HEKI_EXIT_DENIAL, exit->kind);
	EXPECT_EQ(HEKI_EXIT_HAS_REG, exit->flags);
	EXPECT_EQ(vcpu->id, exit->vcpu);
	EXPECT_EQ(0, exit->cpl);
	EXPECT_EQ(rip_of(vcpu), exit->rip);
	EXPECT_EQ(HEKI_CLASS_REGISTER, exit->denied);
	EXPECT_EQ(HEKI_REASON_PINNED, exit->reason);
	EXPECT_EQ(denial.reg, exit->reg);
	EXPECT_EQ(denial.index, exit->index);
	EXPECT_EQ(denial.bits, exit->bits);
	EXPECT_EQ(denial.value, exit->value);
	EXPECT_EQ(0, exit->gpa);
	EXPECT_EQ(0, exit->va);
	EXPECT_EQ(GP_VECTOR, go_on(vcpu));
}

HEKI_TEST(denial, of_a_change_of_cr0_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_exit *exit;
	u64 cr0;

	heki_guest_enable_cr0(vcpu, X86_CR0_WP);
	cr0 = heki_call(vcpu, guest_get_cr0);
	heki_add_pin(heki_begin_request(h, 0), HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(h);
	exit = call_to_exit(vcpu, guest_set_cr0, cr0 & ~X86_CR0_WP, 0, 0);
	expect_register_denial(_metadata, vcpu, exit, (struct register_denial){
		.reg = HEKI_REG_CR0, .bits = X86_CR0_WP,
		.value = (cr0 & ~X86_CR0_WP) | X86_CR0_ET /* constant */ });
	EXPECT_EQ(cr0, heki_call(vcpu, guest_get_cr0));
}

HEKI_TEST(denial, of_a_change_of_cr4_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	struct heki_exit *exit;
	u64 cr4;

	heki_guest_enable_cr4(vcpu, X86_CR4_SMEP);
	heki_guest_enable_cr4(h->vcpu[0], X86_CR4_SMEP);
	cr4 = heki_call(vcpu, guest_get_cr4);
	heki_add_pin(heki_begin_request(h, 0), HEKI_REG_CR4, X86_CR4_SMEP);
	heki_seal(h);
	exit = call_to_exit(vcpu, guest_set_cr4, cr4 & ~X86_CR4_SMEP, 0, 0);
	expect_register_denial(_metadata, vcpu, exit, (struct register_denial){
		.reg = HEKI_REG_CR4, .bits = X86_CR4_SMEP, .value = cr4 & ~X86_CR4_SMEP });
	EXPECT_EQ(cr4, heki_call(vcpu, guest_get_cr4));
}

HEKI_TEST(denial, of_a_change_of_an_msr_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_exit *exit;

	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsr, MSR_LSTAR, 0x1000));
	heki_add_msr(heki_begin_request(h, 0), MSR_LSTAR, 0xf000);
	heki_seal(h);
	exit = call_to_exit(vcpu, guest_wrmsr, MSR_LSTAR, 0x33000, 0);
	expect_register_denial(_metadata, vcpu, exit, (struct register_denial){
		.reg = HEKI_REG_MSR, .index = MSR_LSTAR, .bits = 0x2000, .value = 0x33000 });
	EXPECT_EQ(0x1000, heki_call(vcpu, guest_rdmsr, MSR_LSTAR));
}

static u64 guest_xgetbv(u64 *arg)
{
	return xgetbv(0);
}

/* arg[0]: register, arg[1]: value */
static u64 guest_xsetbv(u64 *arg)
{
	return xsetbv_safe(arg[0], arg[1]);
}

HEKI_TEST(denial, of_a_change_of_xcr0_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_exit *exit;
	u64 xcr0;

	if (!heki_query_pin(h, vcpu, HEKI_REG_XCR0, 0))
		SKIP(return, "this vCPU has no XSAVE");
	xcr0 = heki_call(vcpu, guest_xgetbv);
	heki_add_pin(heki_begin_request(h, 0), HEKI_REG_XCR0, xcr0);
	heki_seal(h);
	exit = call_to_exit(vcpu, guest_xsetbv, 0, 1, 0);
	expect_register_denial(_metadata, vcpu, exit, (struct register_denial){
		.reg = HEKI_REG_XCR0, .bits = xcr0 ^ 1, .value = 1 });
	EXPECT_EQ(xcr0, heki_call(vcpu, guest_xgetbv));
}

#define TSS_SELECTOR	0x50
#define TSS_LIMIT	0x67

/* A part of a register that the instruction does not name. */
HEKI_TEST(denial, of_a_change_of_tr_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct kvm_sregs before, after;
	struct heki_exit *exit;

	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "LTR cannot be made to exit on this host");
	vcpu_sregs_get(vcpu, &before);
	heki_put_descriptor(h, TSS_SELECTOR, HEKI_DESC_TSS, before.tr.base, TSS_LIMIT + 8);
	heki_add_part(heki_begin_request(h, 0), HEKI_REG_TR, 1, ~0u);
	heki_seal(h);
	exit = call_to_exit(vcpu, guest_ltr, TSS_SELECTOR, 0, 0);
	expect_register_denial(_metadata, vcpu, exit, (struct register_denial){
		.reg = HEKI_REG_TR, .index = 1, .bits = before.tr.limit ^ (TSS_LIMIT + 8),
		.value = TSS_LIMIT + 8 });
	vcpu_sregs_get(vcpu, &after);
	EXPECT_EQ(before.tr.limit, after.tr.limit);
	EXPECT_EQ(before.tr.selector, after.tr.selector);
}

HEKI_TEST(denial, of_a_patch_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_patch *patch = (void *)h->request;
	struct heki_site *site = (void *)(patch + 1);
	struct heki_exit *exit;

	heki_seal_page(h, SEALED);
	*patch = (struct heki_patch){ .version = HEKI_ABI_VERSION, .nr_sites = 1 };
	*site = (struct heki_site){ .va = HEKI_PAGE(SEALED) + 5, .len = 5 };
	exit = call_to_exit(vcpu, guest_hypercall, HEKI_OP_PATCH, HEKI_REQUEST_GPA,
			    sizeof(*patch) + sizeof(*site));
	EXPECT_EQ(HEKI_EXIT_DENIAL, exit->kind);
	EXPECT_EQ(HEKI_EXIT_HAS_VA, exit->flags);
	EXPECT_EQ(HEKI_CLASS_PATCH, exit->denied);
	EXPECT_EQ(HEKI_REASON_UNLISTED, exit->reason);
	EXPECT_EQ(HEKI_PAGE(SEALED) + 5, exit->va);
	EXPECT_EQ(-KVM_EPERM, go_on(vcpu));
}

HEKI_TEST(denial, of_a_run_exits)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_exit *exit;

	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	heki_put_code(h, HEKI_PAGE(UNLISTED));
	heki_map_alias(h, UNLISTED);
	heki_seal_exec(h, heki_begin_exec_request(h));
	exit = call_to_exit(vcpu, guest_exec, HEKI_ALIAS(UNLISTED), 0, 0);
	EXPECT_EQ(HEKI_EXIT_DENIAL, exit->kind);
	EXPECT_EQ(HEKI_EXIT_HAS_GPA | HEKI_EXIT_HAS_VA, exit->flags);
	EXPECT_EQ(HEKI_ALIAS(UNLISTED), exit->rip);
	EXPECT_EQ(HEKI_CLASS_EXEC, exit->denied);
	EXPECT_EQ(HEKI_REASON_NOT_EXECUTABLE, exit->reason);
	EXPECT_EQ(HEKI_PAGE(UNLISTED), exit->gpa);
	EXPECT_EQ(HEKI_ALIAS(UNLISTED), exit->va);
	EXPECT_EQ(GP_VECTOR, go_on(vcpu));
}

/* What is to exit is a choice for each class. */
HEKI_TEST(policy, a_class_that_does_not_exit_does_not)
{
	struct heki_vm *h = &self->h;
	struct heki_policy p = told;

	p.write = HEKI_ACTION_GP;
	ASSERT_EQ(0, set_policy(h, &p));
	heki_add_vcpu(h, 0, 0);
	heki_seal_page(h, SEALED);
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
}

/*
 * The next kernel
 */

FIXTURE(kexec) {
	struct heki_vm h;
};

FIXTURE_SETUP(kexec)
{
	struct heki_policy p = everything;

	p.consent = KEXEC;
	create_vm(&self->h, NR_VCPUS, &p);
}

FIXTURE_TEARDOWN(kexec)
{
	heki_vm_free(&self->h);
}

static const struct heki_kexec part = {
	.version = HEKI_ABI_VERSION,
	.flags = HEKI_KEXEC_LAST,
	.gpa = HEKI_PAGE(OTHER),
	.len = PAGE_SIZE + 1,
	.offset = 3,
};

static const struct heki_kexec start = {
	.version = HEKI_ABI_VERSION,
	.flags = HEKI_KEXEC_START,
};

static s64 kexec(struct heki_vm *h, const struct heki_kexec *block, u64 len)
{
	*(struct heki_kexec *)h->request = *block;
	return heki_hypercall(h->vcpu[0], HEKI_OP_KEXEC, HEKI_REQUEST_GPA, len, 0);
}

static struct heki_exit *kexec_to_exit(struct heki_vm *h, const struct heki_kexec *block)
{
	*(struct heki_kexec *)h->request = *block;
	return call_to_exit(h->vcpu[0], guest_hypercall, HEKI_OP_KEXEC, HEKI_REQUEST_GPA,
			    sizeof(*block));
}

HEKI_TEST(policy, without_consent_there_is_no_kexec)
{
	struct heki_vm *h = &self->h;
	struct heki_policy p = everything;

	p.consent = ALL_OPS & ~(KEXEC | 1 << HEKI_OP_SEAL);
	ASSERT_EQ(0, set_policy(h, &p));
	heki_add_vcpu(h, 0, 0);
	EXPECT_EQ(-KVM_EPERM, kexec(h, &part, sizeof(part)));
	heki_seal_page(h, SEALED);
	EXPECT_EQ(0, heki_query(h).patch & HEKI_SERVES_KEXEC);
	EXPECT_EQ(-KVM_EOPNOTSUPP, kexec(h, &part, sizeof(part)));
	EXPECT_EQ(-KVM_EOPNOTSUPP, kexec(h, &start, sizeof(start)));
	EXPECT_EQ(3, vcpu_get_stat(h->vcpu[0], heki_refused));
}

/* A guest that is not sealed has a kexec of its own. */
HEKI_TEST(kexec, an_open_vm_has_none)
{
	struct heki_vm *h = &self->h;

	EXPECT_EQ(HEKI_SERVES_KEXEC, heki_query(h).patch & HEKI_SERVES_KEXEC);
	EXPECT_EQ(-KVM_EPERM, kexec(h, &part, sizeof(part)));
	EXPECT_EQ(-KVM_EPERM, kexec(h, &start, sizeof(start)));
	EXPECT_EQ(2, vcpu_get_stat(h->vcpu[0], heki_refused));
	heki_seal_page(h, SEALED);
	EXPECT_EQ(HEKI_SERVES_KEXEC, heki_query(h).patch & HEKI_SERVES_KEXEC);
}

/* Nobody gets to see these. */
HEKI_TEST(kexec, bad_blocks_are_refused)
{
	static const struct {
		struct heki_kexec block;
		s64 ret;
	} cases[] = {
#define CASE(ret, args...) { { HEKI_ABI_VERSION, args }, ret }
		CASE(-KVM_EINVAL, HEKI_KEXEC_FIRST, 0, 1, 1),
		CASE(-KVM_EINVAL, 0, 0, 1, 0),
		CASE(-KVM_EINVAL, 1 << 3, 0, 1, 1),
		CASE(-KVM_EINVAL, BIT(31), 0, 1, 1),
		CASE(-KVM_EINVAL, HEKI_KEXEC_START | HEKI_KEXEC_LAST, 0, 0, 0),
		CASE(-KVM_EINVAL, HEKI_KEXEC_START, PAGE_SIZE, 0, 0),
		CASE(-KVM_EINVAL, HEKI_KEXEC_START, 0, 1, 0),
		CASE(-KVM_EINVAL, HEKI_KEXEC_START, 0, 0, 1),
		CASE(-KVM_EINVAL, 0, 1, 1, 1),
		CASE(-KVM_EINVAL, 0, 0, 0, 1),
		CASE(-KVM_EINVAL, 0, 1ull << 52, 1, 1),
		CASE(-KVM_EINVAL, 0, -(u64)PAGE_SIZE, PAGE_SIZE, 1),
		CASE(-KVM_E2BIG, 0, 0, HEKI_MAX_KEXEC_CHUNK + 1, 1),
		CASE(-KVM_E2BIG, 0, 0, -1ull, 1),
		CASE(-KVM_E2BIG, 0, 0, 1, HEKI_MAX_KEXEC_BYTES),
		CASE(-KVM_E2BIG, 0, 0, 1, -1ull),
#undef CASE
		{ { HEKI_ABI_VERSION + 1, 0, 0, 1, 1 }, -KVM_EINVAL },
		{ { 0, 0, 0, 1, 1 }, -KVM_EINVAL },
	};
	struct heki_vm *h = &self->h;
	int i;

	heki_seal_page(h, SEALED);
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		EXPECT_EQ(cases[i].ret, kexec(h, &cases[i].block, sizeof(part)))
			TH_LOG("case %d", i);
	EXPECT_EQ(-KVM_EINVAL, kexec(h, &part, 0));
	EXPECT_EQ(-KVM_EINVAL, kexec(h, &part, sizeof(part) - 1));
	EXPECT_EQ(-KVM_EINVAL, kexec(h, &part, sizeof(part) + 1));
	EXPECT_EQ(-KVM_E2BIG, kexec(h, &part, HEKI_MAX_REQUEST_BYTES + 1));
	EXPECT_EQ(-KVM_EFAULT, heki_hypercall(h->vcpu[0], HEKI_OP_KEXEC, HEKI_HOLE_GPA,
					      sizeof(part), 0));
	EXPECT_EQ(-KVM_EINVAL, heki_hypercall(h->vcpu[0], HEKI_OP_KEXEC, HEKI_REQUEST_GPA,
					      sizeof(part), 1));
	EXPECT_EQ(i + 5, vcpu_get_stat(h->vcpu[0], heki_refused));
}

HEKI_TEST(kexec, the_vmm_sees_a_part_and_answers)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_kexec far = part;
	struct heki_exit *exit;

	heki_seal_page(h, SEALED);
	exit = kexec_to_exit(h, &part);
	/* It has a copy. */
	memset(h->request, 0xff, sizeof(part));
	EXPECT_EQ(HEKI_EXIT_REQUEST, exit->kind);
	EXPECT_EQ(0, exit->flags);
	EXPECT_EQ(HEKI_OP_KEXEC, exit->op);
	EXPECT_EQ(KVM_EPERM, exit->answer);
	EXPECT_EQ(sizeof(part), exit->len);
	EXPECT_EQ(part.flags, exit->kexec_flags);
	EXPECT_EQ(part.len, exit->kexec_len);
	EXPECT_EQ(part.gpa, exit->gpa);
	EXPECT_EQ(part.offset, exit->offset);
	exit->answer = 0;
	EXPECT_EQ(0, go_on(vcpu));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_refused));
	EXPECT_EQ(0, vcpu_get_stat(vcpu, heki_grant));

	/* What is no memory is for the VMM to see. */
	far.gpa = HEKI_HOLE_GPA;
	exit = kexec_to_exit(h, &far);
	EXPECT_EQ(HEKI_HOLE_GPA, exit->gpa);
	exit->answer = KVM_EINVAL;
	EXPECT_EQ(-KVM_EINVAL, go_on(vcpu));

	exit = kexec_to_exit(h, &start);
	EXPECT_EQ(HEKI_KEXEC_START, exit->kexec_flags);
	EXPECT_EQ(0, exit->kexec_len);
	EXPECT_EQ(-KVM_EPERM, go_on(vcpu));
	EXPECT_EQ(2, vcpu_get_stat(vcpu, heki_refused));
}

/* The VMM starts the kernel: an Open VM, and nothing left of the request. */
HEKI_TEST(kexec, a_start_ends_in_a_reset)
{
	struct heki_vm *h = &self->h;

	heki_seal_page(h, SEALED);
	kexec_to_exit(h, &start)->answer = 0;
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESET));
	EXPECT_EQ(-KVM_EPERM, go_on(h->vcpu[0]));
	EXPECT_TRUE(is_open(h));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], SEALED));
	EXPECT_EQ(-KVM_EPERM, kexec(h, &start, sizeof(start)));
}

/* The VMM that has no kernel to start, or does not want to, leaves the guest as it was. */
HEKI_TEST(kexec, a_guest_whose_start_is_refused_goes_on)
{
	static const u32 answers[] = { KVM_EPERM, KVM_EINVAL, KVM_E2BIG, KVM_EOPNOTSUPP };
	struct heki_vm *h = &self->h;
	struct heki_exit *exit;
	int i;

	heki_seal_page(h, SEALED);
	for (i = 0; i < ARRAY_SIZE(answers); i++) {
		exit = kexec_to_exit(h, &start);
		EXPECT_EQ(HEKI_OP_KEXEC, exit->op);
		EXPECT_EQ(HEKI_KEXEC_START, exit->kexec_flags);
		exit->answer = answers[i];
		EXPECT_EQ(-(s64)answers[i], go_on(h->vcpu[0])) TH_LOG("answer %u", answers[i]);
	}
	EXPECT_EQ(i, vcpu_get_stat(h->vcpu[0], heki_refused));
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
	for (i = 0; i < NR_VCPUS; i++) {
		EXPECT_TRUE(heki_is_sealed(h, h->vcpu[i], SEALED));
		EXPECT_TRUE(heki_is_writable(h, h->vcpu[i], OTHER));
	}
	/* It may load another one. */
	kexec_to_exit(h, &part)->answer = 0;
	EXPECT_EQ(0, go_on(h->vcpu[0]));
}

/*
 * The pause
 */

#define COUNT		HEKI_PAGE(COUNTER)
#define STOP		(HEKI_PAGE(COUNTER) + 8)

/* Interrupts are on, or some emulators cannot take the vCPU out of the guest. */
static u64 guest_count(u64 *arg)
{
	volatile u64 *count = (u64 *)COUNT, *stop = (u64 *)STOP;

	sti();
	while (!*stop)
		++*count;
	cli();
	return 0;
}

struct counting {
	struct kvm_vcpu *vcpu;
	u32 nr_pauses;
	bool may_go_on;
};

static void *count_in_guest(void *arg)
{
	struct counting *c = arg;

	heki_prepare_call(c->vcpu, guest_count, (u64[HEKI_NR_ARGS]){});
	for (;;) {
		vcpu_run(c->vcpu);
		if (c->vcpu->run->exit_reason != KVM_EXIT_HEKI)
			break;
		TEST_ASSERT(exit_of(c->vcpu)->kind == HEKI_EXIT_PAUSED, "not a pause");
		WRITE_ONCE(c->nr_pauses, c->nr_pauses + 1);
		while (!READ_ONCE(c->may_go_on))
			usleep(1000);
	}
	heki_finish_call(c->vcpu);
	return NULL;
}

/* Waits until the counter moves; false if it does not. */
static bool counts(struct heki_vm *h)
{
	u64 before = heki_peek(h, COUNT);
	int i;

	for (i = 0; i < 1000; i++) {
		if (heki_peek(h, COUNT) != before)
			return true;
		usleep(1000);
	}
	return false;
}

/* What can be pinned is asked of the first vCPU, which has to be there for it. */
HEKI_TEST(policy, a_vcpu_that_runs_is_not_asked)
{
	struct heki_vm *h = &self->h;
	struct counting c = {};
	pthread_t thread;
	u64 mask;

	heki_add_vcpu(h, 0, 0);
	c.vcpu = h->vcpu[0];
	ASSERT_EQ(0, pthread_create(&thread, NULL, count_in_guest, &c));
	while (!heki_peek(h, COUNT))
		usleep(1000);
	EXPECT_EQ(EBUSY, get_pin(h, HEKI_REG_CR0, 0, &mask));
	heki_poke(h, STOP, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(0, get_pin(h, HEKI_REG_CR0, 0, &mask));
}

FIXTURE(pause) {
	struct heki_vm h;
};

FIXTURE_SETUP(pause)
{
	struct heki_policy p = told;

	p.write = HEKI_ACTION_PAUSE;
	create_vm(&self->h, NR_VCPUS, &p);
	heki_seal_page(&self->h, SEALED);
}

FIXTURE_TEARDOWN(pause)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(pause, no_vcpu_runs_until_the_vmm_resumes)
{
	struct heki_vm *h = &self->h;
	struct counting c = { .vcpu = h->vcpu[1] };
	struct heki_exit *exit;
	pthread_t thread;
	u64 count;
	int i;

	ASSERT_EQ(0, pthread_create(&thread, NULL, count_in_guest, &c));
	while (!heki_peek(h, COUNT))
		usleep(1000);

	exit = call_to_exit(h->vcpu[0], guest_write, HEKI_PAGE(SEALED), HEKI_ATTACK, 0);
	count = heki_peek(h, COUNT);
	EXPECT_EQ(HEKI_EXIT_DENIAL, exit->kind);
	EXPECT_EQ(HEKI_EXIT_HAS_GPA | HEKI_EXIT_IS_PAUSE, exit->flags & ~HEKI_EXIT_HAS_VA);
	for (i = 0; i < 1000 && !READ_ONCE(c.nr_pauses); i++)
		usleep(1000);
	EXPECT_EQ(1, c.nr_pauses);
	EXPECT_EQ(count, heki_peek(h, COUNT));

	/* Running on is no way out. */
	for (i = 0; i < 3; i++) {
		vcpu_run(h->vcpu[0]);
		EXPECT_EQ(HEKI_EXIT_PAUSED, exit_of(h->vcpu[0])->kind);
		EXPECT_EQ(0, exit_of(h->vcpu[0])->vcpu);
	}
	EXPECT_EQ(count, heki_peek(h, COUNT));

	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	EXPECT_EQ(GP_VECTOR, go_on(h->vcpu[0]));
	EXPECT_EQ(count, heki_peek(h, COUNT));
	WRITE_ONCE(c.may_go_on, true);
	EXPECT_TRUE(counts(h));
	heki_poke(h, STOP, 1);
	pthread_join(thread, NULL);
	EXPECT_EQ(1, c.nr_pauses);
	EXPECT_EQ(1, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

HEKI_TEST(pause, holds_for_a_vcpu_that_comes_later)
{
	struct heki_vm *h = &self->h;

	/* The third, for which the VM has no place set aside. */
	call_to_exit(h->vcpu[0], guest_write, HEKI_PAGE(SEALED), HEKI_ATTACK, 0);
	heki_add_vcpu(h, 2, 0);
	heki_prepare_call(h->vcpu[2], guest_get_cr0, (u64[HEKI_NR_ARGS]){});
	vcpu_run(h->vcpu[2]);
	EXPECT_EQ(HEKI_EXIT_PAUSED, exit_of(h->vcpu[2])->kind);
	EXPECT_EQ(2, exit_of(h->vcpu[2])->vcpu);
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	EXPECT_EQ(X86_CR0_PG, go_on(h->vcpu[2]) & X86_CR0_PG);
	EXPECT_EQ(GP_VECTOR, go_on(h->vcpu[0]));
}

#define WAKE_VECTOR	0x50
#define WOKEN		(HEKI_PAGE(COUNTER) + 16)
#define MSI_OF_VCPU_1	(0xfee00000 | 1 << 12)

static void guest_wake(struct ex_regs *regs)
{
	WRITE_ONCE(*(u64 *)WOKEN, 1);
	x2apic_write_reg(APIC_EOI, 0);
}

static u64 guest_halt(u64 *arg)
{
	x2apic_enable();
	asm volatile("sti; hlt; cli" : : : "memory");
	return READ_ONCE(*(u64 *)WOKEN);
}

static void *run_thread(void *vcpu)
{
	vcpu_run(vcpu);
	return NULL;
}

/* Waits until the vCPU is halted in KVM; false if that takes too long. */
static bool halts(struct kvm_vcpu *vcpu)
{
	int i;

	for (i = 0; i < 10000; i++) {
		if (vcpu_get_stat(vcpu, blocking))
			return true;
		usleep(1000);
	}
	return false;
}

/* It is in KVM_RUN when the VM is paused, and leaves when there is guest code for it to run. */
HEKI_TEST(pause, a_halted_vcpu_exits_when_it_is_woken)
{
	struct kvm_msi msi = { .address_lo = MSI_OF_VCPU_1, .data = WAKE_VECTOR };
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	pthread_t thread;

	vm_install_exception_handler(h->vm, WAKE_VECTOR, guest_wake);
	heki_prepare_call(vcpu, guest_halt, (u64[HEKI_NR_ARGS]){});
	ASSERT_EQ(0, pthread_create(&thread, NULL, run_thread, vcpu));
	ASSERT_TRUE(halts(vcpu));
	call_to_exit(h->vcpu[0], guest_write, HEKI_PAGE(SEALED), HEKI_ATTACK, 0);
	EXPECT_TRUE(halts(vcpu));

	EXPECT_LT(0, __vm_ioctl(h->vm, KVM_SIGNAL_MSI, &msi));
	pthread_join(thread, NULL);
	EXPECT_EQ(HEKI_EXIT_PAUSED, exit_of(vcpu)->kind);
	EXPECT_EQ(1, exit_of(vcpu)->vcpu);
	EXPECT_EQ(0, heki_peek(h, WOKEN));
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	EXPECT_EQ(1, go_on(vcpu));
	EXPECT_EQ(GP_VECTOR, go_on(h->vcpu[0]));
}

HEKI_TEST(pause, ends_with_a_reset)
{
	struct heki_vm *h = &self->h;

	call_to_exit(h->vcpu[0], guest_write, HEKI_PAGE(SEALED), HEKI_ATTACK, 0);
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESET));
	EXPECT_EQ(GP_VECTOR, go_on(h->vcpu[0]));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], SEALED));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[1], SEALED));
}

/* Without paging a denial shuts the vCPU down, when it runs again. */
HEKI_TEST(pause, a_reset_ends_the_shutdown_that_is_pending)
{
	struct {
		u8 insn;	/* mov %eax, moffs32 */
		u32 to;
	} __packed store = { 0xa3, HEKI_PAGE(SEALED) };
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	struct heki_registers kernel;

	memcpy(heki_hva(h, HEKI_PAGE(UNPAGED_CODE)), &store, sizeof(store));
	heki_query(h);
	heki_get_registers(vcpu, &kernel);
	ASSERT_EQ(KVM_EXIT_HEKI, heki_run_unpaged(vcpu, kernel, HEKI_PAGE(UNPAGED_CODE), 0));

	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESET));
	heki_set_registers(vcpu, &kernel);
	EXPECT_TRUE(heki_is_writable(h, vcpu, SEALED));
}

/*
 * A pause that is owed: its denial has not exited yet. A PATCH is denied when it is
 * answered, which an immediate exit ends there.
 */

FIXTURE(owed) {
	struct heki_vm h;
	u8 state[MAX_STATE_BYTES] __aligned(8);
	u64 len;
};

FIXTURE_SETUP(owed)
{
	struct heki_policy p = everything;

	p.consent = 1 << HEKI_OP_PATCH;
	p.write = HEKI_ACTION_PAUSE;
	p.patch = HEKI_ACTION_PAUSE;
	create_vm(&self->h, NR_VCPUS, &p);
	heki_seal_page(&self->h, SEALED);
}

FIXTURE_TEARDOWN(owed)
{
	heki_vm_free(&self->h);
}

/* Asks for a change of what is no text. */
static struct heki_exit *ask_for_a_bad_patch(struct heki_vm *h, struct kvm_vcpu *vcpu)
{
	struct heki_patch *patch = (void *)h->request;
	struct heki_site *site = (void *)(patch + 1);

	*patch = (struct heki_patch){ .version = HEKI_ABI_VERSION, .nr_sites = 1 };
	*site = (struct heki_site){ .va = HEKI_PAGE(SEALED) + 5, .len = 5 };
	return call_to_exit(vcpu, guest_hypercall, HEKI_OP_PATCH, HEKI_REQUEST_GPA,
			    sizeof(*patch) + sizeof(*site));
}

/* Lets it be denied, and does not look. */
static void deny_unseen(struct kvm_vcpu *vcpu, struct heki_exit *exit)
{
	exit->answer = 0;
	vcpu_run_complete_io(vcpu);
	TEST_ASSERT(vcpu_get_stat(vcpu, heki_denied_patch) == 1, "The PATCH is not denied");
}

static bool is_paused(struct kvm_vcpu *vcpu)
{
	vcpu_run(vcpu);
	return exit_of(vcpu)->kind == HEKI_EXIT_PAUSED && exit_of(vcpu)->vcpu == vcpu->id;
}

/* The vCPU exits with a denial of that class, which paused the VM. */
static bool tells_its_pause(struct kvm_vcpu *vcpu, u32 class)
{
	vcpu_run(vcpu);
	return exit_of(vcpu)->kind == HEKI_EXIT_DENIAL && exit_of(vcpu)->denied == class &&
	       exit_of(vcpu)->flags & HEKI_EXIT_IS_PAUSE;
}

static bool write_pauses(struct kvm_vcpu *vcpu)
{
	heki_prepare_call(vcpu, guest_write, (u64[HEKI_NR_ARGS]){ HEKI_PAGE(SEALED), HEKI_ATTACK });
	return tells_its_pause(vcpu, HEKI_CLASS_WRITE);
}

/* Both went on, with their errors, and nothing keeps them. */
static void expect_both_go_on(struct __test_metadata *_metadata, struct heki_vm *h)
{
	EXPECT_EQ(GP_VECTOR, go_on(h->vcpu[0]));
	EXPECT_EQ(-KVM_EPERM, go_on(h->vcpu[1]));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], OTHER));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[1], OTHER));
}

HEKI_TEST(owed, one_resume_ends_the_pauses_that_were_told)
{
	struct heki_vm *h = &self->h;
	struct heki_exit *exit = ask_for_a_bad_patch(h, h->vcpu[1]);

	EXPECT_TRUE(write_pauses(h->vcpu[0]));
	deny_unseen(h->vcpu[1], exit);
	EXPECT_TRUE(tells_its_pause(h->vcpu[1], HEKI_CLASS_PATCH));
	EXPECT_TRUE(is_paused(h->vcpu[0]));
	EXPECT_TRUE(is_paused(h->vcpu[1]));
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	expect_both_go_on(_metadata, h);
}

/* The VMM that resumes did not know of the second. */
HEKI_TEST(owed, a_resume_does_not_end_a_pause_that_was_not_told)
{
	struct heki_vm *h = &self->h;
	struct heki_exit *exit = ask_for_a_bad_patch(h, h->vcpu[1]);

	EXPECT_TRUE(write_pauses(h->vcpu[0]));
	deny_unseen(h->vcpu[1], exit);
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	EXPECT_TRUE(tells_its_pause(h->vcpu[1], HEKI_CLASS_PATCH));
	EXPECT_TRUE(is_paused(h->vcpu[0]));
	EXPECT_TRUE(is_paused(h->vcpu[1]));
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	expect_both_go_on(_metadata, h);
}

/* The one that was told runs on meanwhile, and is caught again. */
HEKI_TEST(owed, a_vcpu_that_was_resumed_is_paused_again)
{
	struct heki_vm *h = &self->h;
	struct heki_exit *exit = ask_for_a_bad_patch(h, h->vcpu[1]);

	EXPECT_TRUE(write_pauses(h->vcpu[0]));
	deny_unseen(h->vcpu[1], exit);
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	EXPECT_EQ(GP_VECTOR, go_on(h->vcpu[0]));
	EXPECT_TRUE(tells_its_pause(h->vcpu[1], HEKI_CLASS_PATCH));
	heki_prepare_call(h->vcpu[0], guest_get_cr0, (u64[HEKI_NR_ARGS]){});
	EXPECT_TRUE(is_paused(h->vcpu[0]));
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	EXPECT_EQ(X86_CR0_PG, go_on(h->vcpu[0]) & X86_CR0_PG);
	EXPECT_EQ(-KVM_EPERM, go_on(h->vcpu[1]));
}

/* What was saved would not be paused, so there is no state before the denial was told. */
HEKI_TEST(owed, no_state_is_saved_before_it_was_told)
{
	struct heki_vm *h = &self->h;

	deny_unseen(h->vcpu[1], ask_for_a_bad_patch(h, h->vcpu[1]));
	EXPECT_EQ(EBUSY, get_state(h, self->state, &self->len));
	EXPECT_TRUE(is_paused(h->vcpu[0]));
	EXPECT_EQ(EBUSY, get_state(h, self->state, &self->len));
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESUME));
	EXPECT_EQ(EBUSY, get_state(h, self->state, &self->len));

	EXPECT_TRUE(tells_its_pause(h->vcpu[1], HEKI_CLASS_PATCH));
	EXPECT_EQ(0, get_state(h, self->state, &self->len));
	EXPECT_EQ(HEKI_STATE_SEALED, saved_life(self->state));
	EXPECT_TRUE(is_paused(h->vcpu[0]));
	EXPECT_EQ(0, get_state(h, self->state, &self->len));
	EXPECT_EQ(HEKI_STATE_SEALED, saved_life(self->state));
}

HEKI_TEST(owed, a_reset_forgives_it)
{
	struct heki_vm *h = &self->h;

	deny_unseen(h->vcpu[1], ask_for_a_bad_patch(h, h->vcpu[1]));
	EXPECT_EQ(EBUSY, get_state(h, self->state, &self->len));
	EXPECT_EQ(0, set_attr(h, KVM_DEV_HEKI_RESET));
	EXPECT_EQ(0, get_state(h, self->state, &self->len));
	EXPECT_EQ(HEKI_STATE_OPEN, saved_life(self->state));
	EXPECT_EQ(-KVM_EPERM, go_on(h->vcpu[1]));
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], SEALED));
}

int main(int argc, char *argv[])
{
	heki_require();
	return heki_run_with_forced_emulation(test_harness_run, argc, argv);
}
