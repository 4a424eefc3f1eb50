// SPDX-License-Identifier: GPL-2.0
/*
 * A VM that learns: what is denied elsewhere is reported and happens. Each attack
 * runs under two policies, one that holds and one that learns.
 */
#include <linux/kvm_para.h>

#include "kvm_test_harness.h"
#include "heki.h"

#define NR_VCPUS	2
#define FRAME		512	/* pages, the first of a frame of 2 MiB */
#define SEALED		(FRAME + 3)
#define READ_ONLY	8	/* not by the seal, by the guest's own tables */
#define UNLISTED	9
#define TEXT		10
#define POOL		12
#define MANY		1024	/* the first of very many */
#define MSR_VALUE	0xffffffff81234000ull
#define MAX_BYTES	65536

#define LEARNED		HEKI_EXIT_IS_LEARNED

static struct heki_policy policy_of(u32 action)
{
	return (struct heki_policy){
		.version = HEKI_ABI_VERSION,
		.allowed = HEKI_PROT_ALL,
		.write = action,
		.exec = action,
		.reg = action,
		.patch = action,
	};
}

/* Zero or the error. */
static int set_policy(struct heki_vm *h, const struct heki_policy *policy)
{
	return __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_POLICY,
				     (void *)policy) ? errno : 0;
}

static void begin_vm(struct heki_vm *h)
{
	*h = (struct heki_vm){ .device = -1 };
	h->vm = __vm_create(VM_SHAPE_DEFAULT, NR_VCPUS, HEKI_TEST_PAGES);
	heki_add_memory(h, VM_MEM_SRC_ANONYMOUS_THP);
	h->device = kvm_create_device(h->vm, KVM_DEV_TYPE_HEKI);
}

static void create_vm(struct heki_vm *h, u32 action)
{
	struct heki_policy policy = policy_of(action);
	u32 id;

	begin_vm(h);
	TEST_ASSERT(!set_policy(h, &policy), "a good policy is refused: %d", errno);
	for (id = 0; id < NR_VCPUS; id++)
		heki_add_vcpu(h, id, 0);
}

static struct heki_exit *exit_of(struct kvm_vcpu *vcpu)
{
	TEST_ASSERT(vcpu->run->exit_reason == KVM_EXIT_HEKI, "exit of vCPU %u is %u (%s)",
		    vcpu->id, vcpu->run->exit_reason, exit_reason_str(vcpu->run->exit_reason));
	return (struct heki_exit *)vcpu->run->padding;
}

/*
 * The policy
 */

FIXTURE(policy) {
	struct heki_vm h;
};

FIXTURE_SETUP(policy)
{
	begin_vm(&self->h);
}

FIXTURE_TEARDOWN(policy)
{
	heki_vm_free(&self->h);
}

HEKI_TEST(policy, what_holds_must_not_rest_on_what_learns)
{
	struct heki_vm *h = &self->h;
	struct heki_policy p, now;

	/* Memory that runs would be written, or run without SMEP. */
	p = policy_of(HEKI_ACTION_GP);
	p.write = HEKI_ACTION_LEARN;
	EXPECT_EQ(EINVAL, set_policy(h, &p));
	p = policy_of(HEKI_ACTION_GP);
	p.reg = HEKI_ACTION_LEARN;
	EXPECT_EQ(EINVAL, set_policy(h, &p));
	p.exec = HEKI_ACTION_PAUSE;
	EXPECT_EQ(EINVAL, set_policy(h, &p));
	/* Sealed text would be changed by request. */
	p = policy_of(HEKI_ACTION_LEARN);
	p.write = HEKI_ACTION_EXIT;
	EXPECT_EQ(EINVAL, set_policy(h, &p));
	p.allowed = HEKI_PROT_WRITE;
	EXPECT_EQ(EINVAL, set_policy(h, &p));
	p = policy_of(HEKI_ACTION_LEARN);
	p.exec = HEKI_ACTION_COUNT;
	EXPECT_EQ(EINVAL, set_policy(h, &p));

	p = policy_of(HEKI_ACTION_GP);
	p.exec = HEKI_ACTION_LEARN;
	EXPECT_EQ(0, set_policy(h, &p));
	ASSERT_EQ(0, __kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL, KVM_DEV_HEKI_POLICY,
					   &now));
	EXPECT_EQ(0, memcmp(&now, &p, sizeof(now)));
}

HEKI_TEST(policy, without_execution_one_class_may_learn)
{
	struct heki_policy p = policy_of(HEKI_ACTION_GP);
	struct heki_vm *h = &self->h;
	struct heki_query q;

	p.allowed = HEKI_PROT_WRITE | HEKI_PROT_CR;
	p.write = HEKI_ACTION_LEARN;
	ASSERT_EQ(0, set_policy(h, &p));
	heki_add_vcpu(h, 0, 0);
	heki_guest_enable_cr0(h->vcpu[0], X86_CR0_WP);
	heki_add_page(heki_begin_request(h, 0), SEALED);
	heki_add_pin(h->request, HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(h);
	q = heki_query(h);
	EXPECT_EQ(1 << HEKI_CLASS_WRITE, q.learning);
	EXPECT_EQ(HEKI_PROT_CR, q.held);
	EXPECT_EQ(X86_CR0_WP, heki_query_pin(h, h->vcpu[0], HEKI_REG_CR0, 0));
	EXPECT_EQ(GP_VECTOR, heki_call(h->vcpu[0], guest_set_cr0,
				       heki_call(h->vcpu[0], guest_get_cr0) & ~X86_CR0_WP));
}

/* Neither a vCPU nor a guest that sealed itself has seen another policy. */
HEKI_TEST(policy, learning_does_not_begin_late)
{
	struct heki_policy learn = policy_of(HEKI_ACTION_LEARN), hold = policy_of(HEKI_ACTION_GP);
	struct heki_vm *h = &self->h;

	ASSERT_EQ(0, set_policy(h, &hold));
	EXPECT_EQ(EBUSY, set_policy(h, &learn));
	heki_add_vcpu(h, 0, 0);
	EXPECT_EQ(EBUSY, set_policy(h, &learn));
	heki_seal_page(h, SEALED);
	EXPECT_EQ(EBUSY, set_policy(h, &learn));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
	EXPECT_EQ(0, heki_query(h).learning);
}

HEKI_TEST(policy, nor_without_a_policy)
{
	struct heki_policy learn = policy_of(HEKI_ACTION_LEARN);
	struct heki_vm *h = &self->h;

	heki_add_vcpu(h, 0, 0);
	EXPECT_EQ(EBUSY, set_policy(h, &learn));
	heki_seal_page(h, SEALED);
	EXPECT_EQ(EBUSY, set_policy(h, &learn));
	EXPECT_TRUE(heki_is_sealed(h, h->vcpu[0], SEALED));
}

/*
 * Attacks
 */

FIXTURE(attack) {
	struct heki_vm h;
	bool learns;
};

FIXTURE_VARIANT(attack) {
	u32 action;
};

FIXTURE_VARIANT_ADD(attack, held) {
	.action = HEKI_ACTION_EXIT,
};

FIXTURE_VARIANT_ADD(attack, learned) {
	.action = HEKI_ACTION_LEARN,
};

FIXTURE_SETUP(attack)
{
	create_vm(&self->h, variant->action);
	self->learns = variant->action == HEKI_ACTION_LEARN;
}

FIXTURE_TEARDOWN(attack)
{
	heki_vm_free(&self->h);
}

/* Lets the vCPU attack: it exits @nr_exits times for @class, and then the result. */
static s64 attack(struct kvm_vcpu *vcpu, bool learns, u32 nr_exits, u32 class,
		  u64 (*fn)(u64 *), u64 arg0, u64 arg1, u64 arg2)
{
	heki_prepare_call(vcpu, fn, (u64[HEKI_NR_ARGS]){ arg0, arg1, arg2 });
	for (; nr_exits; nr_exits--) {
		const struct heki_exit *exit;

		vcpu_run(vcpu);
		exit = exit_of(vcpu);
		TEST_ASSERT(exit->kind == HEKI_EXIT_DENIAL && exit->denied == class,
			    "kind %u, class %u", exit->kind, exit->denied);
		TEST_ASSERT(!!(exit->flags & LEARNED) == learns, "flags %#x", exit->flags);
	}
	vcpu_run(vcpu);
	return heki_finish_call(vcpu);
}

HEKI_TEST(attack, a_write)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	bool learns = self->learns;
	u64 gpa = HEKI_PAGE(SEALED);
	gva_t alias = heki_map_alias(h, SEALED);
	struct heki_query q;

	heki_add_range(heki_begin_request(h, 0), HEKI_PAGE(FRAME), FRAME * PAGE_SIZE, 0,
		       HEKI_KIND_RODATA);
	heki_seal(h);
	q = heki_query(h);
	EXPECT_EQ(learns ? 0 : HEKI_PROT_WRITE, q.held);
	EXPECT_EQ(HEKI_PROT_WRITE, q.available & HEKI_PROT_WRITE);
	EXPECT_EQ(learns ? (1 << HEKI_CLASS_COUNT) - 1 : 0, q.learning);

	/* The whole frame is mapped, as one page if that can be. */
	EXPECT_EQ(0, heki_call(vcpu, guest_read, gpa));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_WRITE, guest_write, gpa, HEKI_ATTACK, 0));
	EXPECT_EQ(learns ? HEKI_ATTACK : 0, heki_peek(h, gpa));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_write));

	/* Once for the page, whoever writes, and through whatever mapping. */
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, !learns, HEKI_CLASS_WRITE, guest_write, gpa + 8,
			 HEKI_ATTACK, 0));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(h->vcpu[0], learns, !learns, HEKI_CLASS_WRITE, guest_write, alias + 16,
			 HEKI_ATTACK, 0));
	EXPECT_EQ(learns ? HEKI_ATTACK : 0, heki_peek(h, gpa + 8));
	EXPECT_EQ(learns ? HEKI_ATTACK : 0, heki_peek(h, gpa + 16));
	EXPECT_EQ(learns ? 1 : 2, vcpu_get_stat(vcpu, heki_denied_write));
	EXPECT_EQ(learns ? 0 : 1, vcpu_get_stat(h->vcpu[0], heki_denied_write));

	/* The neighbour is another page. */
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_WRITE, guest_write, gpa + PAGE_SIZE,
			 HEKI_ATTACK, 0));
	EXPECT_EQ(learns ? HEKI_ATTACK : 0, heki_peek(h, gpa + PAGE_SIZE));
	EXPECT_EQ(learns ? 2 : 3, vcpu_get_stat(vcpu, heki_denied_write));
	EXPECT_EQ(HEKI_STATE_SEALED, heki_query(h).state);
}

static u64 guest_fep_cmpxchg(u64 *arg)
{
	return kvm_asm_safe_fep("lock cmpxchgq %[val], (%[gva])", [gva]"r"(arg[0]),
				[val]"r"(arg[1]), "a"(arg[2]));
}

HEKI_TEST(attack, in_the_emulator)
{
	struct heki_vm *h = &self->h;
	bool learns = self->learns;

	if (!kvm_is_forced_emulation_enabled())
		SKIP(return, "kvm.force_emulation_prefix is off and cannot be set");
	heki_seal_page(h, SEALED);
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(h->vcpu[0], learns, 1, HEKI_CLASS_WRITE, guest_fep_write,
			 HEKI_PAGE(SEALED), HEKI_ATTACK, 0));
	EXPECT_EQ(learns ? HEKI_ATTACK : 0, heki_peek(h, HEKI_PAGE(SEALED)));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(h->vcpu[0], learns, !learns, HEKI_CLASS_WRITE, guest_fep_cmpxchg,
			 HEKI_PAGE(SEALED), HEKI_CALM, learns ? HEKI_ATTACK : 0));
	EXPECT_EQ(learns ? HEKI_CALM : 0, heki_peek(h, HEKI_PAGE(SEALED)));
	EXPECT_EQ(learns ? 1 : 2, vcpu_get_stat(h->vcpu[0], heki_denied_write));
}

HEKI_TEST(attack, a_run_of_unlisted_code)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	bool learns = self->learns;

	if (!heki_has_exec(h))
		SKIP(return, "neither MBEC nor GMET on this host");
	heki_put_code(h, HEKI_PAGE(UNLISTED));
	heki_put_code(h, HEKI_PAGE(UNLISTED + 1));
	heki_seal_exec(h, heki_begin_exec_request(h));
	EXPECT_EQ(learns ? 0 : HEKI_PROT_EXEC, heki_query(h).held & HEKI_PROT_EXEC);
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_EXEC, guest_exec, HEKI_PAGE(UNLISTED), 0, 0));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, !learns, HEKI_CLASS_EXEC, guest_exec,
			 HEKI_PAGE(UNLISTED), 0, 0));
	EXPECT_EQ(learns ? 1 : 2, vcpu_get_stat(vcpu, heki_denied_exec));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_EXEC, guest_exec,
			 HEKI_PAGE(UNLISTED + 1), 0, 0));
	/* It can be written as before: only where it is sealed is that learned. */
	EXPECT_TRUE(heki_is_writable(h, vcpu, UNLISTED));
}

/* Hardware has to follow: without WP supervisor mode writes what its tables forbid. */
HEKI_TEST(attack, clears_wp)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	bool learns = self->learns;
	u64 cr0;

	vm_get_pte(h->vm, heki_map_alias(h, READ_ONLY))[0] &= ~PTE_WRITABLE_MASK(&h->vm->mmu);
	heki_guest_enable_cr0(vcpu, X86_CR0_WP);
	EXPECT_EQ(PF_VECTOR, heki_call(vcpu, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK));
	cr0 = heki_call(vcpu, guest_get_cr0);
	heki_begin_request(h, 0);
	heki_add_pin(h->request, HEKI_REG_CR0, X86_CR0_WP);
	heki_seal(h);
	EXPECT_EQ(learns ? 0 : X86_CR0_WP, heki_query_pin(h, vcpu, HEKI_REG_CR0, 0));
	EXPECT_EQ(learns ? 0 : HEKI_PROT_CR, heki_query(h).held);

	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_REGISTER, guest_set_cr0,
			 cr0 & ~X86_CR0_WP, 0, 0));
	EXPECT_EQ(learns ? 0 : X86_CR0_WP, heki_call(vcpu, guest_get_cr0) & X86_CR0_WP);
	EXPECT_EQ(learns ? 0 : PF_VECTOR,
		  heki_call(vcpu, guest_write, HEKI_ALIAS(READ_ONLY), HEKI_ATTACK));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_cr));

	/* Setting it denies nothing; clearing it again does. */
	EXPECT_EQ(0, heki_call(vcpu, guest_set_cr0, cr0));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_REGISTER, guest_set_cr0,
			 cr0 & ~X86_CR0_WP, 0, 0));
	EXPECT_EQ(2, vcpu_get_stat(vcpu, heki_denied_cr));
}

HEKI_TEST(attack, clears_fsgsbase)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[1];
	bool learns = self->learns;
	u64 cr4;

	if (!(heki_query(h).cr4_pinnable & X86_CR4_FSGSBASE))
		SKIP(return, "this CPU has no FSGSBASE");
	heki_guest_enable_cr4(vcpu, X86_CR4_FSGSBASE);
	EXPECT_EQ(0, heki_call(vcpu, guest_rdfsbase));
	cr4 = heki_call(vcpu, guest_get_cr4);
	heki_begin_request(h, 0);
	heki_add_pin(h->request, HEKI_REG_CR4, X86_CR4_FSGSBASE);
	EXPECT_EQ(0, heki_send(h, vcpu));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_REGISTER, guest_set_cr4,
			 cr4 & ~X86_CR4_FSGSBASE, 0, 0));
	EXPECT_EQ(learns ? UD_VECTOR : 0, heki_call(vcpu, guest_rdfsbase));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_cr));
}

HEKI_TEST(attack, changes_lstar)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	bool learns = self->learns;

	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsr, MSR_LSTAR, MSR_VALUE));
	heki_begin_request(h, 0);
	heki_add_msr(h->request, MSR_LSTAR, ~0ull);
	heki_seal(h);
	EXPECT_EQ(learns ? 0 : HEKI_PROT_MSR, heki_query(h).held);
	EXPECT_EQ(learns ? 0 : ~0ull, heki_query_pin(h, vcpu, HEKI_REG_MSR, MSR_LSTAR));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_REGISTER, guest_wrmsr, MSR_LSTAR,
			 MSR_VALUE + PAGE_SIZE, 0));
	EXPECT_EQ(learns ? MSR_VALUE + PAGE_SIZE : MSR_VALUE,
		  heki_call(vcpu, guest_rdmsr, MSR_LSTAR));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
	EXPECT_EQ(0, heki_call(vcpu, guest_wrmsr, MSR_LSTAR, MSR_VALUE));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

HEKI_TEST(attack, moves_the_gdt)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	bool learns = self->learns;
	struct kvm_sregs sregs;
	u16 limit;

	if (!(heki_query(h).available & HEKI_PROT_DT))
		SKIP(return, "loads of tables cannot be seen on this host");
	vcpu_sregs_get(vcpu, &sregs);
	limit = sregs.gdt.limit;
	heki_begin_request(h, 0);
	heki_add_tables(h->request, HEKI_REG_GDTR);
	heki_seal(h);
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_REGISTER, guest_lgdt, sregs.gdt.base,
			 limit - 8, 0));
	vcpu_sregs_get(vcpu, &sregs);
	EXPECT_EQ(learns ? limit - 8 : limit, sregs.gdt.limit);
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_msr));
}

/*
 * Changes of text, by request
 */

static const u8 nop5[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
static const u8 jump5[] = { 0xe9, 0x01, 0x02, 0x03, 0x04 };

static void seal_text(struct heki_vm *h)
{
	struct heki_seal *req = heki_begin_request(h, 0);

	heki_add_range(req, HEKI_PAGE(TEXT), PAGE_SIZE, HEKI_EXEC, HEKI_KIND_TEXT);
	heki_ranges(req)[0].va = HEKI_PAGE(TEXT);
	heki_seal(h);
}

/* Bytes of a PATCH of what stands at @va. */
static u64 put_patch(struct heki_vm *h, u64 va, const u8 *old, const u8 *new)
{
	struct heki_patch *patch = (void *)h->request;
	struct heki_site *site = (void *)(patch + 1);

	*patch = (struct heki_patch){ .version = HEKI_ABI_VERSION, .nr_sites = 1 };
	*site = (struct heki_site){ .va = va, .len = 5 };
	memcpy(site->old, old, 5);
	memcpy(site->new, new, 5);
	return sizeof(*patch) + sizeof(*site);
}

HEKI_TEST(attack, patches_text_that_no_rule_lists)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	u64 len, va = HEKI_PAGE(TEXT) + 7;
	bool learns = self->learns;
	void *text = heki_hva(h, va);

	memcpy(text, nop5, sizeof(nop5));
	seal_text(h);
	EXPECT_EQ(0, heki_query(h).patch & (learns ? HEKI_TARGET_SYMBOL | HEKI_TARGET_HASH |
					    HEKI_TARGET_ENDBR : 0));
	len = put_patch(h, va, nop5, jump5);
	EXPECT_EQ(learns ? 0 : -KVM_EPERM,
		  attack(vcpu, learns, 1, HEKI_CLASS_PATCH, guest_hypercall, HEKI_OP_PATCH,
			 HEKI_REQUEST_GPA, len));
	EXPECT_EQ(0, memcmp(text, learns ? jump5 : nop5, 5));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_patch));
	EXPECT_EQ(learns, vcpu_get_stat(vcpu, heki_patched));

	/* A stale one, too: text that learned holds the jump by now, other still the NOP. */
	len = put_patch(h, va, learns ? nop5 : jump5, jump5);
	EXPECT_EQ(learns ? 0 : -KVM_EPERM,
		  attack(vcpu, learns, 1, HEKI_CLASS_PATCH, guest_hypercall, HEKI_OP_PATCH,
			 HEKI_REQUEST_GPA, len));
	EXPECT_EQ(0, memcmp(text, learns ? jump5 : nop5, 5));
	EXPECT_EQ(2, vcpu_get_stat(vcpu, heki_denied_patch));

	/* Where no sealed memory is, the host has nothing to change. */
	len = put_patch(h, HEKI_PAGE(TEXT + 1), nop5, jump5);
	EXPECT_EQ(-KVM_EPERM,
		  attack(vcpu, false, 1, HEKI_CLASS_PATCH, guest_hypercall, HEKI_OP_PATCH,
			 HEKI_REQUEST_GPA, len));
	EXPECT_EQ(3, vcpu_get_stat(vcpu, heki_denied_patch));
}

static u64 put_grant(struct heki_vm *h, u64 nr, u32 rights)
{
	struct heki_grant *grant = (void *)h->request;
	struct heki_range *range = (void *)(grant + 1);

	*grant = (struct heki_grant){ .version = HEKI_ABI_VERSION, .nr_ranges = 1 };
	*range = (struct heki_range){
		.gpa = HEKI_PAGE(nr),
		.len = PAGE_SIZE,
		.va = HEKI_PAGE(nr),
		.rights = rights,
		.kind = HEKI_KIND_POOL,
	};
	return sizeof(*grant) + sizeof(*range);
}

HEKI_TEST(attack, has_other_pages_run)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	bool learns = self->learns;
	u64 len;

	heki_put_code(h, HEKI_PAGE(POOL));
	seal_text(h);
	len = put_grant(h, POOL, HEKI_EXEC);
	EXPECT_EQ(learns ? 0 : -KVM_EPERM,
		  attack(vcpu, learns, 1, HEKI_CLASS_PATCH, guest_hypercall, HEKI_OP_GRANT,
			 HEKI_REQUEST_GPA, len));
	EXPECT_EQ(0, heki_call(vcpu, guest_exec, HEKI_PAGE(POOL)));
	EXPECT_EQ(1, vcpu_get_stat(vcpu, heki_denied_patch));

	/* Text of the seal stays text, whatever the answer: it may be written anyway. */
	len = put_grant(h, TEXT, 0);
	EXPECT_EQ(learns ? 0 : -KVM_EPERM,
		  attack(vcpu, learns, 1, HEKI_CLASS_PATCH, guest_hypercall, HEKI_OP_RELEASE,
			 HEKI_REQUEST_GPA, len));
	EXPECT_EQ(2, vcpu_get_stat(vcpu, heki_denied_patch));
	EXPECT_EQ(learns ? 0 : GP_VECTOR,
		  attack(vcpu, learns, 1, HEKI_CLASS_WRITE, guest_write, HEKI_PAGE(TEXT),
			 HEKI_ATTACK, 0));
}

/*
 * What else there is to a VM that learns
 */

FIXTURE(learn) {
	struct heki_vm h;
};

FIXTURE_SETUP(learn)
{
	create_vm(&self->h, HEKI_ACTION_LEARN);
}

FIXTURE_TEARDOWN(learn)
{
	heki_vm_free(&self->h);
}

/* arg[0]: address, arg[1]: number of pages */
static u64 guest_write_pages(u64 *arg)
{
	u64 i, vector = 0;

	for (i = 0; i < arg[1] && !vector; i++)
		vector = guest_write((u64[]){ arg[0] + i * PAGE_SIZE, HEKI_ATTACK });
	return vector;
}

HEKI_TEST(learn, ends_with_all_allowed)
{
	const u64 nr = HEKI_MAX_LEARNED + FRAME;
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	u64 i;

	heki_add_range(heki_begin_request(h, 0), HEKI_PAGE(MANY), nr * PAGE_SIZE, 0,
		       HEKI_KIND_RODATA);
	heki_seal(h);
	EXPECT_EQ(0, attack(vcpu, true, HEKI_MAX_LEARNED, HEKI_CLASS_WRITE, guest_write_pages,
			    HEKI_PAGE(MANY), nr, 0));
	EXPECT_EQ(HEKI_MAX_LEARNED, vcpu_get_stat(vcpu, heki_denied_write));
	for (i = 0; i < nr && heki_peek(h, HEKI_PAGE(MANY + i)) == HEKI_ATTACK; i++)
		;
	EXPECT_EQ(nr, i);
	EXPECT_EQ(0, heki_query(h).held);
}

HEKI_TEST(learn, begins_anew_with_a_reset)
{
	struct heki_vm *h = &self->h;
	struct kvm_vcpu *vcpu = h->vcpu[0];
	int i;

	for (i = 1; i <= 2; i++) {
		heki_seal_page(h, SEALED);
		EXPECT_EQ(0, attack(vcpu, true, 1, HEKI_CLASS_WRITE, guest_write,
				    HEKI_PAGE(SEALED), HEKI_ATTACK, 0));
		EXPECT_EQ(i, vcpu_get_stat(vcpu, heki_denied_write));
		EXPECT_TRUE(heki_is_writable(h, vcpu, SEALED));
		EXPECT_EQ(0, __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL,
						   KVM_DEV_HEKI_RESET, NULL));
		EXPECT_EQ(0, heki_query(h).held);
		EXPECT_EQ((1 << HEKI_CLASS_COUNT) - 1, heki_query(h).learning);
	}
}

static u8 state[MAX_BYTES];

static int state_attr(struct heki_vm *h, bool set, u64 *len)
{
	struct heki_buffer buffer = { .data = (u64)state, .len = *len };
	int ret = set ? __kvm_device_attr_set(h->device, KVM_DEV_HEKI_CTRL,
					      KVM_DEV_HEKI_STATE, &buffer) :
			__kvm_device_attr_get(h->device, KVM_DEV_HEKI_CTRL,
					      KVM_DEV_HEKI_STATE, &buffer);

	*len = buffer.len;
	return ret ? errno : 0;
}

/* A guest that was told what is held must not come to be where nothing is, nor the other way. */
HEKI_TEST(learn, a_sealed_state_neither_leaves_nor_comes)
{
	struct heki_vm *h = &self->h, from;
	u64 len = MAX_BYTES;

	heki_vm_create(&from, 1);
	heki_seal_page(&from, SEALED);
	ASSERT_EQ(0, state_attr(&from, false, &len));
	heki_vm_free(&from);
	EXPECT_EQ(EOPNOTSUPP, state_attr(h, true, &len));
	EXPECT_EQ(HEKI_STATE_OPEN, heki_query(h).state);
	EXPECT_TRUE(heki_is_writable(h, h->vcpu[0], SEALED));

	/* An open one has no seal. */
	len = MAX_BYTES;
	EXPECT_EQ(0, state_attr(h, false, &len));
	heki_seal_page(h, SEALED);
	len = MAX_BYTES;
	EXPECT_EQ(EOPNOTSUPP, state_attr(h, false, &len));
}

int main(int argc, char *argv[])
{
	heki_require();
	return heki_run_with_forced_emulation(test_harness_run, argc, argv);
}
