"""The companies of the sandbox: who works there and whom they sell to. What they say is in each vendor's file here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_NAMES = ("acme", "northwind", "globex", "umbra", "hooli", "vandelay", "stark", "wonka", "tyrell", "cyberdyne")
_FIRST = (
    "Ana", "Bo", "Chidi", "Dana", "Emil", "Farah", "Grace", "Hiro", "Ines", "Jonas", "Kavya", "Liam", "Mei", "Noor",
    "Olga", "Pedro", "Quinn", "Robin", "Sara", "Tomás", "Uma", "Viktor", "Wanda", "Yusuf", "Zoë",
)  # fmt: skip
_LAST = (
    "Ruiz", "Field", "Okafor", "Lind", "Moreau", "Haddad", "Kim", "Tanaka", "Costa", "Weber", "Rao", "Murphy", "Chen",
    "Rahman", "Petrova", "Silva", "Adler", "Novak", "Berg", "Iglesias",
)  # fmt: skip
_ROLES = ("CEO", "Account Executive", "Customer Success", "Engineer", "Engineer", "Support", "Product", "Marketing")
_CUSTOMERS = ("Initech", "Soylent", "Massive Dynamic", "Pied Piper", "Gringotts", "Monsters Inc", "Oceanic", "Duff")


@dataclass(frozen=True, slots=True)
class Somebody:
    """A person of a company or of its customer. ``index`` is unique in the company's world."""

    index: int
    first: str
    last: str
    email: str
    role: str

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}"


@dataclass(frozen=True, slots=True)
class Customer:
    name: str
    domain: str
    contacts: tuple[Somebody, ...]


@dataclass(frozen=True, slots=True)
class Company:
    """One workspace: ``workspace`` is its id in syncd, ``index`` its number in the sandbox."""

    index: int
    workspace: str
    name: str
    domain: str
    staff: tuple[Somebody, ...]
    customers: tuple[Customer, ...]

    def role(self, role: str) -> Somebody:
        """The first of that role, or the first of all."""
        return next((one for one in self.staff if one.role == role), self.staff[0])


def company(rng: random.Random, index: int) -> Company:
    """The company of that index, the same for the same generator."""
    base = _NAMES[index % len(_NAMES)]
    workspace = base if index < len(_NAMES) else f"{base}-{index // len(_NAMES) + 1}"
    domain = f"{workspace}.example"
    firsts, lasts = rng.sample(_FIRST, len(_FIRST)), rng.sample(_LAST, len(_LAST))

    def somebody(number: int, at: str, role: str) -> Somebody:
        first, last = firsts[number % len(firsts)], lasts[number % len(lasts)]
        return Somebody(number, first, last, f"{_ascii(first)}.{_ascii(last)}@{at}", role)

    staff = tuple(somebody(number, domain, role) for number, role in enumerate(_ROLES))
    customers, number = [], len(staff)
    for name in rng.sample(_CUSTOMERS, 3):
        at = f"{name.lower().replace(' ', '')}.example"
        customers.append(
            Customer(name, at, tuple(somebody(number + n, at, role) for n, role in enumerate(("CTO", "Buyer"))))
        )
        number += 2
    return Company(index, workspace, workspace.replace("-", " ").title(), domain, staff, tuple(customers))


def _ascii(name: str) -> str:
    return name.lower().replace("á", "a").replace("ë", "e")
